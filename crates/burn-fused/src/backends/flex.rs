//! Flex: hands the tensors' values to the kernels of `qlora-cpu`, which compute in f32, and read and write f32, f16 and
//! bf16; f64 goes to the reference bodies.

mod cached;
mod values;

use burn_core::backend::ops::FloatTensorOps;
use burn_core::backend::tensor::{FloatTensor, IntTensor};
use burn_core::backend::{Flex, TensorMetadata};
use burn_core::tensor::{DType, bf16, f16};
use burn_flex::FlexTensor;
use burn_operands::flex::{FlexElement, Values, cast, cast_to, tensor, update};
use burn_operands::with_element;
use nf4::glu::Activation;
use qlora_cpu::attention::{self, Results};
use qlora_cpu::rope::Angles;
use qlora_cpu::{Cpu, cross_entropy, dense, glu, isa, rms_norm, rope};

use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::{AttentionMask, CachedTokens, Rotation};
use crate::ops::FusedOps;
use crate::reference;
use values::{Attention, Head, Heads, LoraHead, head_dtype, one_a_row, transposed};

impl FusedOps for Flex {
    fn matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        if let Some(product) = few_rows(&lhs, &rhs) {
            return product;
        }
        // Burn's product of a single row or column adds f16 up in f16.
        if lhs.dtype() == DType::F16 && (lhs.shape()[0] == 1 || rhs.shape()[1] == 1) {
            let [lhs, rhs] = [lhs, rhs].map(cast::<f32>);
            return cast::<f16>(Self::float_matmul(lhs, rhs));
        }
        Self::float_matmul(lhs, rhs)
    }

    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(x.dtype(), E => {
            let shape = x.shape();
            let (x, weight) = (Values::<E>::new(x), Values::<f32>::new(weight));
            let (y, inv_rms) = rms_norm::forward(isa(), &x, &weight, config);
            (tensor(shape.clone(), y), tensor(one_a_row(shape), inv_rms))
        }, else reference::rms_norm::forward::<Self>(x, weight, config))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let (x, [weight, inv_rms]) = (Values::new(x), [weight, inv_rms].map(Values::new));
            update::<E>(grad, |grad| {
                rms_norm::backward(isa(), &x, &weight, &inv_rms, grad, config);
            })
        }, else reference::rms_norm::backward::<Self>(x, weight, inv_rms, grad, config))
    }

    fn rms_norm_backward_weight(
        x: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let n = x.shape()[x.rank() - 1];
            let [x, inv_rms, grad] = [x, inv_rms, grad].map(Values::new);
            let dweight = rms_norm::backward_weight(isa(), &x, &inv_rms, &grad, n);
            cast::<E>(tensor([n], dweight))
        }, else reference::rms_norm::backward_weight::<Self>(x, inv_rms, grad))
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(x.dtype(), E => {
            let shape = x.shape();
            let (residual, weight) = (Values::<E>::new(residual), Values::<f32>::new(weight));
            let (mut y, mut inv_rms) = Default::default();
            let sum = update::<E>(x, |x| {
                (y, inv_rms) = rms_norm::add_forward(isa(), x, &residual, &weight, config);
            });
            (sum, tensor(shape.clone(), y), tensor(one_a_row(shape), inv_rms))
        }, else reference::rms_norm::add_forward::<Self>(x, residual, weight, config))
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        with_element!(sum.dtype(), E => {
            let [sum, grad_sum] = [sum, grad_sum].map(Values::new);
            let [weight, inv_rms] = [weight, inv_rms].map(Values::new);
            update::<E>(grad, |grad| {
                rms_norm::add_backward(isa(), &sum, &weight, &inv_rms, &grad_sum, grad, config);
            })
        }, else reference::rms_norm::add_backward::<Self>(sum, weight, inv_rms, grad_sum, grad, config))
    }

    fn glu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        with_element!(gate.dtype(), E => {
            let shape = gate.shape();
            let [gate, up] = [gate, up].map(Values::<E>::new);
            tensor(shape, glu::forward::<E>(isa(), &gate, &up, activation))
        }, else reference::glu::forward::<Self>(gate, up, activation))
    }

    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(gate.dtype(), E => {
            let (up_dtype, up) = (up.dtype(), Values::<E>::new(up));
            let mut dup = None;
            let dgate = update::<E>(gate, |gate| {
                dup = Some(update::<E>(grad, |grad| {
                    glu::backward::<E>(isa(), gate, &up, grad, activation);
                }));
            });
            (dgate, cast_to(dup.expect("the gradient was computed"), up_dtype))
        }, else reference::glu::backward::<Self>(gate, up, grad, activation))
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        with_element!(x.dtype(), E => {
            let [_, _, heads, d] = x.shape().dims();
            let [_, pairs] = cos.shape().dims();
            let [cos, sin] = [cos, sin].map(Values::new);
            let angles = Angles { cos: &cos, sin: &sin, pairs };
            update::<E>(x, |x| rope::rotate(isa(), x, [heads, d], angles, inverse))
        }, else reference::rope::rotate::<Self>(x, cos, sin, inverse))
    }

    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rotation: Rotation<Self>,
        cache: CachedTokens<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, CachedTokens<Self>) {
        let kept = cache.keys.dtype();
        if q.shape()[1] <= dense::FEW_ROWS && cache.values.dtype() == kept {
            with_element!(q.dtype(), E => with_element!(kept, K => {
                let (q, k) = reference::cached_attention::rotated::<Self>(q, k, rotation);
                return cached::forward::<E, K>([q, k, v], cache, mask, config);
            }, else ()), else ());
        }
        reference::cached_attention::forward::<Self>([q, k, v], rotation, cache, mask, config)
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(q.dtype(), E => {
            let shape = q.shape();
            let [batch, q_len, heads, _] = shape.dims();
            let (out, lse) = attend::<E>([q, k, v], mask, config);
            (tensor(shape, out), tensor([batch, q_len, heads], lse))
        }, else reference::attention::forward::<Self>(q, k, v, mask, config))
    }

    fn causal_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(q.dtype(), E => {
            let shapes = [q.shape(), k.shape(), v.shape()];
            let dtypes = [k.dtype(), v.dtype()];
            let attention = Attention::<E, <E as qlora_cpu::Element>::Operand>::new(q, k, v, mask);
            let ([out, grad], lse) = ([out, grad].map(Heads::<E>::new), Values::<f32>::new(lse));
            let results = Results { out: out.view(), lse: &lse, grad: grad.view() };
            let operands = attention.operands(config);
            let [dq, dk, dv] = attention::backward(isa(), &operands, &results);
            let [q_shape, k_shape, v_shape] = shapes;
            let (dk, dv) = (tensor(k_shape, dk), tensor(v_shape, dv));
            (tensor(q_shape, dq), cast_to(dk, dtypes[0]), cast_to(dv, dtypes[1]))
        }, else reference::attention::backward::<Self>([q, k, v, out, lse, grad], mask, config))
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        with_element!(head_dtype(&hidden, &weight), E => {
            let head = Head::<E>::new(hidden, weight, targets, config);
            tensor([1], vec![cross_entropy::loss(isa(), &head.operands())])
        }, else reference::cross_entropy::loss::<Self>(hidden, weight, targets, config))
    }

    fn linear_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(head_dtype(&hidden, &weight), E => {
            let (shape, dtype) = (hidden.shape(), hidden.dtype());
            let head = Head::<E>::new(hidden, weight, targets, config);
            let (loss, dhidden) = cross_entropy::loss_grad_hidden(isa(), &head.operands());
            (tensor([1], vec![loss]), cast_to(tensor(shape, dhidden), dtype))
        }, else reference::cross_entropy::loss_grad_hidden::<Self>(hidden, weight, targets, config))
    }

    fn token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        with_element!(head_dtype(&hidden, &weight), E => {
            let tokens = hidden.shape()[0];
            let head = Head::<E>::new(hidden, weight, targets, config);
            tensor([tokens], cross_entropy::token_losses(isa(), &head.operands()))
        }, else reference::cross_entropy::token_losses::<Self>(hidden, weight, targets, config))
    }

    fn token_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(head_dtype(&hidden, &weight), E => {
            let (shape, dtype) = (hidden.shape(), hidden.dtype());
            let head = Head::<E>::new(hidden, weight, targets, config);
            let (losses, rows) = cross_entropy::token_losses_grad_hidden(isa(), &head.operands());
            (tensor([shape[0]], losses), cast_to(tensor(shape, rows), dtype))
        }, else reference::cross_entropy::token_losses_grad_hidden::<Self>(hidden, weight, targets, config))
    }

    fn linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(head_dtype(&hidden, &weight), E => {
            let [like_hidden, like_weight] = [&hidden, &weight].map(|x| (x.shape(), x.dtype()));
            let head = Head::<E>::new(hidden, weight, targets, config);
            let operands = head.operands();
            let (loss, dhidden, dweight) = cross_entropy::loss_grads(isa(), &operands);
            (
                tensor([1], vec![loss]),
                cast_to(tensor(like_hidden.0, dhidden), like_hidden.1),
                cast_to(tensor(like_weight.0, dweight), like_weight.1),
            )
        }, else reference::cross_entropy::loss_grads::<Self>(hidden, weight, targets, config))
    }

    fn lora_token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let (dtype, tokens) = (head_dtype(&hidden, &weight), hidden.shape()[0]);
        let operands = [hidden, weight, rows, factor];
        with_element!(dtype, E => {
            let head = LoraHead::<E>::new(operands, targets, config);
            let (operands, low_rank) = head.operands();
            tensor([tokens], cross_entropy::low_rank_losses(isa(), &operands, low_rank))
        }, else reference::lora_cross_entropy::losses::<Self>(operands, targets, config))
    }

    fn lora_token_cross_entropy_grad_tokens(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = head_dtype(&hidden, &weight);
        let likes = [&hidden, &rows].map(|like| (like.shape(), like.dtype()));
        let operands = [hidden, weight, rows, factor];
        with_element!(dtype, E => {
            let head = LoraHead::<E>::new(operands, targets, config);
            let (operands, low_rank) = head.operands();
            let [losses, dhidden, drows] =
                cross_entropy::low_rank_losses_gradients(isa(), &operands, low_rank);
            let [of_hidden, of_rows] = likes;
            (
                tensor([of_hidden.0[0]], losses),
                cast_to(tensor(of_hidden.0, dhidden), of_hidden.1),
                cast_to(tensor(of_rows.0, drows), of_rows.1),
            )
        }, else reference::lora_cross_entropy::grad_tokens::<Self>(operands, targets, config))
    }

    fn lora_token_cross_entropy_grad_factor(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let dtype = head_dtype(&hidden, &weight);
        let like = (factor.shape(), factor.dtype());
        let operands = [hidden, weight, rows, factor];
        with_element!(dtype, E => {
            let head = LoraHead::<E>::new(operands, targets, config);
            let (operands, low_rank) = head.operands();
            let grad = Values::<f32>::new(grad);
            let dfactor =
                cross_entropy::low_rank_gradient_of_factor(isa(), &operands, low_rank, &grad);
            cast_to(tensor(like.0, dfactor), like.1)
        }, else reference::lora_cross_entropy::grad_factor::<Self>(operands, targets, grad, config))
    }

    fn lora_linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let dtype = head_dtype(&hidden, &weight);
        let likes = [&hidden, &rows, &factor].map(|like| (like.shape(), like.dtype()));
        let operands = [hidden, weight, rows, factor];
        with_element!(dtype, E => {
            let head = LoraHead::<E>::new(operands, targets, config);
            let (operands, low_rank) = head.operands();
            let [losses, dhidden, drows, dfactor] =
                cross_entropy::low_rank_gradients(isa(), &operands, low_rank);
            // One order of additions, in more digits than the terms have, as of the head alone.
            let loss: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
            let [of_hidden, of_rows, of_factor] = likes;
            (
                tensor([1], vec![loss as f32]),
                cast_to(tensor(of_hidden.0, dhidden), of_hidden.1),
                cast_to(tensor(of_rows.0, drows), of_rows.1),
                cast_to(tensor(of_factor.0, dfactor), of_factor.1),
            )
        }, else reference::lora_cross_entropy::grads::<Self>(operands, targets, config))
    }

    fn lora_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let dtype = head_dtype(&hidden, &weight);
        let operands = [hidden, weight, rows, factor];
        with_element!(dtype, E => {
            let head = LoraHead::<E>::new(operands, targets, config);
            let (operands, low_rank) = head.operands();
            let losses = cross_entropy::low_rank_losses(isa(), &operands, low_rank);
            let loss: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
            tensor([1], vec![loss as f32])
        }, else reference::lora_cross_entropy::loss::<Self>(operands, targets, config))
    }
}

/// Attends with `[q, k, v]`: the output, and the log-sum-exp of its rows. A few positions read keys and values in the type that they
/// are kept in.
fn attend<E: FlexElement>(
    [q, k, v]: [FlexTensor; 3],
    mask: AttentionMask<Flex>,
    config: AttentionConfig,
) -> (Vec<E>, Vec<f32>)
where
    E::Operand: FlexElement,
{
    if q.shape()[1] <= dense::FEW_ROWS && k.dtype() == v.dtype() {
        with_element!(k.dtype(), K => {
            let attention = Attention::<E, K>::new(q, k, v, mask);
            return attention::forward_few(isa(), &attention.operands(config));
        }, else ());
    }
    let attention = Attention::<E, E::Operand>::new(q, k, v, mask);
    attention::forward(isa(), &attention.operands(config))
}

/// Returns the product of a few rows and a transposed matrix, which is read where it lies: in 16 bits Burn's product would copy
/// the whole head for every token. `None` for what the kernel does not serve.
fn few_rows(lhs: &FlexTensor, rhs: &FlexTensor) -> Option<FlexTensor> {
    if lhs.shape()[0] > dense::FEW_ROWS || lhs.dtype() != rhs.dtype() {
        return None;
    }
    match lhs.dtype() {
        DType::F32 => few_rows_of::<f32>(lhs, rhs),
        DType::BF16 => few_rows_of::<bf16>(lhs, rhs),
        DType::F16 => few_rows_of::<f16>(lhs, rhs),
        _ => None,
    }
}

/// Does [`few_rows`] for one type.
fn few_rows_of<E: FlexElement>(lhs: &FlexTensor, rhs: &FlexTensor) -> Option<FlexTensor> {
    let w = transposed::<E>(rhs)?;
    let [[m, _], [_, n]] = [lhs, rhs].map(|operand| operand.shape().dims());
    let mut y = vec![E::default(); m * n];
    Cpu::default().dense_matmul_few_rows(w, &Values::<E>::new(lhs.clone()), m, &mut y);
    Some(tensor([m, n], y))
}
