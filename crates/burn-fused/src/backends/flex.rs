//! Flex: hands the tensors' values to the kernels of `qlora-cpu`, which compute in f32, and read and write f32, f16 and
//! bf16; f64 goes to the reference bodies.

use core::marker::PhantomData;
use core::ops::Deref;

use burn_core::backend::ops::{FloatTensorOps, IntTensorOps};
use burn_core::backend::tensor::{FloatTensor, IntTensor};
use burn_core::backend::{Bytes, Flex, TensorMetadata};
use burn_core::tensor::{DType, Element, IntDType, Shape};
use burn_flex::{FlexTensor, Layout};
use qlora_cpu::attention::{self, HeadsRef, Operands, Results};
use qlora_cpu::{Isa, convert, cross_entropy, rms_norm, rope, swiglu};

use crate::element::with_element;
use crate::ops::{AttentionMask, FusedOps};
use crate::reference;

impl FusedOps for Flex {
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(x.dtype(), E => {
            let shape = x.shape();
            let (x, weight) = (Values::<E>::new(x), Values::<f32>::new(weight));
            let (y, inv_rms) = rms_norm::forward(Isa::best(), &x, &weight, eps as f32);
            (tensor(shape.clone(), y), tensor(one_a_row(shape), inv_rms))
        }, else reference::rms_norm::forward::<Self>(x, weight, eps))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let (x, [weight, inv_rms]) = (Values::new(x), [weight, inv_rms].map(Values::new));
            update::<E>(grad, |grad| {
                rms_norm::backward(Isa::best(), &x, &weight, &inv_rms, grad);
            })
        }, else reference::rms_norm::backward::<Self>(x, weight, inv_rms, grad))
    }

    fn rms_norm_backward_weight(
        x: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let n = x.shape()[x.rank() - 1];
            let [x, inv_rms, grad] = [x, inv_rms, grad].map(Values::new);
            let dweight = rms_norm::backward_weight(Isa::best(), &x, &inv_rms, &grad, n);
            cast::<E>(tensor([n], dweight))
        }, else reference::rms_norm::backward_weight::<Self>(x, inv_rms, grad))
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(x.dtype(), E => {
            let shape = x.shape();
            let (residual, weight) = (Values::<E>::new(residual), Values::<f32>::new(weight));
            let (mut y, mut inv_rms) = Default::default();
            let sum = update::<E>(x, |x| {
                let isa = Isa::best();
                (y, inv_rms) = rms_norm::add_forward(isa, x, &residual, &weight, eps as f32);
            });
            (sum, tensor(shape.clone(), y), tensor(one_a_row(shape), inv_rms))
        }, else reference::rms_norm::add_forward::<Self>(x, residual, weight, eps))
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        with_element!(sum.dtype(), E => {
            let [sum, grad_sum] = [sum, grad_sum].map(Values::new);
            let [weight, inv_rms] = [weight, inv_rms].map(Values::new);
            update::<E>(grad, |grad| {
                rms_norm::add_backward(Isa::best(), &sum, &weight, &inv_rms, &grad_sum, grad);
            })
        }, else reference::rms_norm::add_backward::<Self>(sum, weight, inv_rms, grad_sum, grad))
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(gate.dtype(), E => {
            let shape = gate.shape();
            let [gate, up] = [gate, up].map(Values::<E>::new);
            tensor(shape, swiglu::forward::<E>(Isa::best(), &gate, &up))
        }, else reference::swiglu::forward::<Self>(gate, up))
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(gate.dtype(), E => {
            let (up_dtype, up) = (up.dtype(), Values::<E>::new(up));
            let mut dup = None;
            let dgate = update::<E>(gate, |gate| {
                dup = Some(update::<E>(grad, |grad| {
                    swiglu::backward::<E>(Isa::best(), gate, &up, grad);
                }));
            });
            (dgate, cast_to(dup.expect("the gradient was computed"), up_dtype))
        }, else reference::swiglu::backward::<Self>(gate, up, grad))
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let [_, _, heads, d] = x.shape().dims();
            let [cos, sin] = [cos, sin].map(Values::new);
            update::<E>(x, |x| rope::rotate(Isa::best(), x, [heads, d], &cos, &sin, inverse))
        }, else reference::rope::rotate::<Self>(x, cos, sin, inverse))
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(q.dtype(), E => {
            let shape = q.shape();
            let [batch, q_len, heads, _] = shape.dims();
            let attention = Attention::<E>::new(q, k, v, mask);
            let (out, lse) = attention::forward(Isa::best(), &attention.operands(scale));
            (tensor(shape, out), tensor([batch, q_len, heads], lse))
        }, else reference::attention::forward::<Self>(q, k, v, mask, scale))
    }

    fn causal_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(q.dtype(), E => {
            let shapes = [q.shape(), k.shape(), v.shape()];
            let dtypes = [k.dtype(), v.dtype()];
            let attention = Attention::<E>::new(q, k, v, mask);
            let ([out, grad], lse) = ([out, grad].map(Heads::<E>::new), Values::<f32>::new(lse));
            let results = Results { out: out.view(), lse: &lse, grad: grad.view() };
            let operands = attention.operands(scale);
            let [dq, dk, dv] = attention::backward(Isa::best(), &operands, &results);
            let [q_shape, k_shape, v_shape] = shapes;
            let (dk, dv) = (tensor(k_shape, dk), tensor(v_shape, dv));
            (tensor(q_shape, dq), cast_to(dk, dtypes[0]), cast_to(dv, dtypes[1]))
        }, else reference::attention::backward::<Self>([q, k, v, out, lse, grad], mask, scale))
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        with_element!(head_dtype(&hidden, &weight), E => {
            let head = Head::<E>::new(hidden, weight, targets);
            tensor([1], vec![cross_entropy::loss(Isa::best(), &head.operands())])
        }, else reference::cross_entropy::loss::<Self>(hidden, weight, targets))
    }

    fn linear_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(head_dtype(&hidden, &weight), E => {
            let (shape, dtype) = (hidden.shape(), hidden.dtype());
            let head = Head::<E>::new(hidden, weight, targets);
            let (loss, dhidden) = cross_entropy::loss_grad_hidden(Isa::best(), &head.operands());
            (tensor([1], vec![loss]), cast_to(tensor(shape, dhidden), dtype))
        }, else reference::cross_entropy::loss_grad_hidden::<Self>(hidden, weight, targets))
    }

    fn linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(head_dtype(&hidden, &weight), E => {
            let [like_hidden, like_weight] = [&hidden, &weight].map(|x| (x.shape(), x.dtype()));
            let head = Head::<E>::new(hidden, weight, targets);
            let operands = head.operands();
            let (loss, dhidden, dweight) = cross_entropy::loss_grads(Isa::best(), &operands);
            (
                tensor([1], vec![loss]),
                cast_to(tensor(like_hidden.0, dhidden), like_hidden.1),
                cast_to(tensor(like_weight.0, dweight), like_weight.1),
            )
        }, else reference::cross_entropy::loss_grads::<Self>(hidden, weight, targets))
    }
}

/// What both the kernels and Burn take for an element.
trait Number: qlora_cpu::Element + Element {}

impl<E: qlora_cpu::Element + Element> Number for E {}

/// A tensor's values in row-major order, converted to `E` where they are of another type.
struct Values<E>(FlexTensor, PhantomData<E>);

impl<E: Number> Values<E> {
    fn new(tensor: FlexTensor) -> Self {
        let tensor = cast::<E>(tensor);
        let contiguous = tensor.layout().contiguous_offsets().is_some();
        Self(
            if contiguous {
                tensor
            } else {
                tensor.to_contiguous()
            },
            PhantomData,
        )
    }
}

impl<E: Number> Deref for Values<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.0.as_slice().expect("the layout is contiguous")
    }
}

/// A tensor `[batch, len, heads, d]` of `E`: a view as attention reads it, a copy where it cannot.
struct Heads<E>(FlexTensor, PhantomData<E>);

impl<E: Number> Heads<E> {
    fn new(tensor: FlexTensor) -> Self {
        let heads = Self(cast::<E>(tensor), PhantomData);
        if heads.try_view().is_some() {
            return heads;
        }
        Self(heads.0.to_contiguous(), PhantomData)
    }

    fn view(&self) -> HeadsRef<'_, E> {
        self.try_view().expect("a contiguous tensor can be read")
    }

    fn try_view(&self) -> Option<HeadsRef<'_, E>> {
        let layout = self.0.layout();
        let data = &self.0.storage()[layout.start_offset()..];
        let strides = [0, 1, 2, 3].map(|dim| layout.strides()[dim]);
        HeadsRef::new(data, layout.shape().dims(), strides)
    }
}

/// The operands of an attention.
struct Attention<E: qlora_cpu::Element> {
    q: Heads<E>,
    k: Heads<E::Operand>,
    v: Heads<E::Operand>,
    starts: Option<FlexTensor>,
}

impl<E: Number> Attention<E>
where
    E::Operand: Number,
{
    fn new(q: FlexTensor, k: FlexTensor, v: FlexTensor, mask: AttentionMask<Flex>) -> Self {
        Self {
            q: Heads::new(q),
            k: Heads::new(k),
            v: Heads::new(v),
            starts: mask.starts().map(integers),
        }
    }

    fn operands(&self, scale: f64) -> Operands<'_, E> {
        Operands {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sequence_offsets: self.starts.as_ref().map(|starts| starts.storage()),
            scale: scale as f32,
        }
    }
}

/// The operands of the head's cross-entropy.
struct Head<E> {
    hidden: Values<E>,
    weight: Values<E>,
    shape: [usize; 2],
    targets: FlexTensor,
}

impl<E: Number> Head<E> {
    fn new(hidden: FlexTensor, weight: FlexTensor, targets: FlexTensor) -> Self {
        Self {
            shape: weight.shape().dims(),
            hidden: Values::new(hidden),
            weight: Values::new(weight),
            targets: integers(targets),
        }
    }

    fn operands(&self) -> cross_entropy::Operands<'_, E> {
        cross_entropy::Operands {
            hidden: &self.hidden,
            weight: &self.weight,
            shape: self.shape,
            targets: self.targets.storage(),
        }
    }
}

/// The type that the head's products multiply: the weight's, or f64 where either is.
fn head_dtype(hidden: &FlexTensor, weight: &FlexTensor) -> DType {
    if hidden.dtype() == DType::F64 {
        DType::F64
    } else {
        weight.dtype()
    }
}

/// The tensor as `E`; nothing is done when that is its type.
fn cast<E: Number>(from: FlexTensor) -> FlexTensor {
    if from.dtype() == E::dtype() {
        return from;
    }
    with_element!(from.dtype(), A => {
        let shape = from.shape();
        let values = Values::<A>::new(from);
        tensor(shape, convert::<A, E>(Isa::best(), &values))
    }, else Flex::float_cast(from, E::dtype().into()))
}

/// The tensor in `dtype`; nothing is done when it has it already.
fn cast_to(from: FlexTensor, dtype: DType) -> FlexTensor {
    with_element!(dtype, E => cast::<E>(from), else Flex::float_cast(from, dtype.into()))
}

/// The tensor, after `f` has changed its values (row-major): in place when nobody else holds the storage, in a copy
/// otherwise.
fn update<E: Number>(tensor: FlexTensor, f: impl FnOnce(&mut [E])) -> FlexTensor {
    // Borrowing, `to_contiguous` hands out a second reference to a storage that fits; the first goes with the statement.
    let mut tensor = cast::<E>(tensor).to_contiguous();
    f(tensor.storage_mut());
    tensor
}

/// The tensor as i64, in row-major order.
fn integers(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::I64 {
        tensor.to_contiguous()
    } else {
        Flex::int_cast(tensor, IntDType::I64).to_contiguous()
    }
}

/// The shape of one number for each row.
fn one_a_row(mut shape: Shape) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    shape
}

/// A new tensor of exactly as many values as `shape` holds.
fn tensor<E: Number>(shape: impl Into<Shape>, values: Vec<E>) -> FlexTensor {
    let shape = shape.into();
    debug_assert_eq!(shape.num_elements(), values.len());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        E::dtype(),
    )
}
