//! Getting at the values of a tensor in the type and order that a kernel takes, and making tensors of its results.

use core::marker::PhantomData;
use core::ops::Deref;

use burn_core::backend::ops::{FloatTensorOps, IntTensorOps};
use burn_core::backend::{Bytes, Flex, TensorMetadata};
use burn_core::tensor::{DType, Element, IntDType, Shape};
use burn_flex::{FlexTensor, Layout};
use qlora_cpu::attention::{HeadsRef, Operands};
use qlora_cpu::{convert, cross_entropy, isa};

use crate::config::{AttentionConfig, LogitsConfig};
use crate::element::with_element;
use crate::ops::AttentionMask;

/// An element type of both the kernels and Burn.
pub(super) trait FlexElement: qlora_cpu::Element + Element {}

impl<E: qlora_cpu::Element + Element> FlexElement for E {}

/// A tensor's values in row-major order, converted to `E` where they are of another type.
pub(super) struct Values<E>(FlexTensor, PhantomData<E>);

impl<E: FlexElement> Values<E> {
    pub(super) fn new(tensor: FlexTensor) -> Self {
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

impl<E: FlexElement> Deref for Values<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.0.as_slice().expect("the layout is contiguous")
    }
}

/// A tensor `[batch, len, heads, d]` of `E`: a view as attention reads it, a copy where it cannot.
pub(super) struct Heads<E>(FlexTensor, PhantomData<E>);

impl<E: FlexElement> Heads<E> {
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let heads = Self(cast::<E>(tensor), PhantomData);
        if heads.try_view().is_some() {
            return heads;
        }
        Self(heads.0.to_contiguous(), PhantomData)
    }

    pub(super) fn view(&self) -> HeadsRef<'_, E> {
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
pub(super) struct Attention<E: qlora_cpu::Element> {
    q: Heads<E>,
    k: Heads<E::Operand>,
    v: Heads<E::Operand>,
    starts: Option<FlexTensor>,
}

impl<E: FlexElement> Attention<E>
where
    E::Operand: FlexElement,
{
    pub(super) fn new(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: AttentionMask<Flex>,
    ) -> Self {
        Self {
            q: Heads::new(q),
            k: Heads::new(k),
            v: Heads::new(v),
            starts: mask.starts().map(integers),
        }
    }

    pub(super) fn operands(&self, config: AttentionConfig) -> Operands<'_, E> {
        Operands {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sequence_offsets: self.starts.as_ref().map(|starts| starts.storage()),
            config: config.into(),
        }
    }
}

/// The operands of the head's cross-entropy.
pub(super) struct Head<E> {
    hidden: Values<E>,
    weight: Values<E>,
    shape: [usize; 2],
    targets: FlexTensor,
    config: LogitsConfig,
}

impl<E: FlexElement> Head<E> {
    pub(super) fn new(
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: FlexTensor,
        config: LogitsConfig,
    ) -> Self {
        Self {
            shape: weight.shape().dims(),
            hidden: Values::new(hidden),
            weight: Values::new(weight),
            targets: integers(targets),
            config,
        }
    }

    pub(super) fn operands(&self) -> cross_entropy::Operands<'_, E> {
        cross_entropy::Operands {
            hidden: &self.hidden,
            weight: &self.weight,
            shape: self.shape,
            targets: self.targets.storage(),
            scale: self.config.scale as f32,
            softcap: self.config.softcap.map(|cap| cap as f32),
        }
    }
}

/// Returns the dtype that the head's products multiply: the weight's, or f64 where either is.
pub(super) fn head_dtype(hidden: &FlexTensor, weight: &FlexTensor) -> DType {
    if hidden.dtype() == DType::F64 {
        DType::F64
    } else {
        weight.dtype()
    }
}

/// Returns the tensor as `E`; nothing is done when that is its type.
pub(super) fn cast<E: FlexElement>(from: FlexTensor) -> FlexTensor {
    if from.dtype() == E::dtype() {
        return from;
    }
    with_element!(from.dtype(), A => {
        let shape = from.shape();
        let values = Values::<A>::new(from);
        tensor(shape, convert::<A, E>(isa(), &values))
    }, else Flex::float_cast(from, E::dtype().into()))
}

/// Returns the tensor in `dtype`; nothing is done when it has it already.
pub(super) fn cast_to(from: FlexTensor, dtype: DType) -> FlexTensor {
    with_element!(dtype, E => cast::<E>(from), else Flex::float_cast(from, dtype.into()))
}

/// Returns the tensor after `f` has changed its values (row-major): in place when nobody else holds the storage, in a
/// copy otherwise.
pub(super) fn update<E: FlexElement>(tensor: FlexTensor, f: impl FnOnce(&mut [E])) -> FlexTensor {
    // Borrowing, `to_contiguous` hands out a second reference to a storage that fits; the first goes with the statement.
    let mut tensor = cast::<E>(tensor).to_contiguous();
    f(tensor.storage_mut());
    tensor
}

/// Returns the tensor as i64, in row-major order.
pub(super) fn integers(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::I64 {
        tensor.to_contiguous()
    } else {
        Flex::int_cast(tensor, IntDType::I64).to_contiguous()
    }
}

/// Returns the shape of one number for each row.
pub(super) fn one_a_row(mut shape: Shape) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    shape
}

/// Makes a tensor of exactly as many values as `shape` holds.
pub(super) fn tensor<E: FlexElement>(shape: impl Into<Shape>, values: Vec<E>) -> FlexTensor {
    let shape = shape.into();
    debug_assert_eq!(shape.num_elements(), values.len());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        E::dtype(),
    )
}
