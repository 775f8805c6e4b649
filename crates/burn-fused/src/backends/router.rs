//! Remote devices and captures: each operation is a custom operation of Burn's IR.

mod registry;
mod settings;

use burn_core::backend::ir::ScalarIr;
use burn_core::backend::{
    TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn_core::tensor::{DType, Shape};
use burn_operands::router::send;
use burn_router::{BackendRouter, RouterChannel};
use nf4::glu::Activation;

use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::AttentionMask;
use crate::ops::FusedOps;
pub use registry::register_fused_ops;
use settings::{activation_scalars, attention_scalars, logits_scalars, rms_norm_scalars};

const MATMUL: &str = "burn_fused::matmul";
const WIDENED_MATMUL: &str = "burn_fused::widened_matmul";
const RMS_NORM: &str = "burn_fused::rms_norm";
const RMS_NORM_BACKWARD: &str = "burn_fused::rms_norm_backward";
const RMS_NORM_BACKWARD_WEIGHT: &str = "burn_fused::rms_norm_backward_weight";
const ADD_RMS_NORM: &str = "burn_fused::add_rms_norm";
const ADD_RMS_NORM_BACKWARD: &str = "burn_fused::add_rms_norm_backward";
const GLU: &str = "burn_fused::glu";
const GLU_BACKWARD: &str = "burn_fused::glu_backward";
const ROPE: &str = "burn_fused::rope";
const ATTENTION: &str = "burn_fused::causal_attention";
const ATTENTION_BACKWARD: &str = "burn_fused::causal_attention_backward";
const CROSS_ENTROPY: &str = "burn_fused::linear_cross_entropy";
const CROSS_ENTROPY_GRAD_HIDDEN: &str = "burn_fused::linear_cross_entropy_grad_hidden";
const CROSS_ENTROPY_GRADS: &str = "burn_fused::linear_cross_entropy_grads";
const TOKEN_CROSS_ENTROPY: &str = "burn_fused::token_cross_entropy";
const TOKEN_CROSS_ENTROPY_GRAD_HIDDEN: &str = "burn_fused::token_cross_entropy_grad_hidden";
const TOKEN_CROSS_ENTROPY_GRAD_WEIGHT: &str = "burn_fused::token_cross_entropy_grad_weight";
const LORA_CROSS_ENTROPY: &str = "burn_fused::lora_linear_cross_entropy";
const LORA_CROSS_ENTROPY_GRADS: &str = "burn_fused::lora_linear_cross_entropy_grads";
const LORA_TOKEN_CROSS_ENTROPY: &str = "burn_fused::lora_token_cross_entropy";
const LORA_TOKEN_CROSS_ENTROPY_GRAD_TOKENS: &str =
    "burn_fused::lora_token_cross_entropy_grad_tokens";
const LORA_TOKEN_CROSS_ENTROPY_GRAD_FACTOR: &str =
    "burn_fused::lora_token_cross_entropy_grad_factor";

impl<C: RouterChannel> FusedOps for BackendRouter<C> {
    fn matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        product::<C>(MATMUL, lhs, rhs)
    }

    fn widened_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        product::<C>(WIDENED_MATMUL, lhs, rhs)
    }

    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let results = [like(&x), of_rows(&x)];
        send(RMS_NORM, [x, weight], results, rms_norm_scalars(config)).into()
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        let (results, scalars) = ([like(&x)], rms_norm_scalars(config));
        let [dx] = send(
            RMS_NORM_BACKWARD,
            [x, weight, inv_rms, grad],
            results,
            scalars,
        );
        dx
    }

    fn rms_norm_backward_weight(
        x: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let n = shape[shape.num_dims() - 1];
        let results = [(Shape::new([n]), x.dtype())];
        let [dw] = send(
            RMS_NORM_BACKWARD_WEIGHT,
            [x, inv_rms, grad],
            results,
            vec![],
        );
        dw
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let results = [like(&x), like(&x), of_rows(&x)];
        let operands = [x, residual, weight];
        send(ADD_RMS_NORM, operands, results, rms_norm_scalars(config)).into()
    }

    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        let (results, scalars) = ([like(&sum)], rms_norm_scalars(config));
        let operands = [sum, weight, inv_rms, grad_sum, grad];
        let [dx] = send(ADD_RMS_NORM_BACKWARD, operands, results, scalars);
        dx
    }

    fn glu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let results = [like(&gate)];
        let [y] = send(GLU, [gate, up], results, activation_scalars(activation));
        y
    }

    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let results = [like(&gate), like(&up)];
        let scalars = activation_scalars(activation);
        send(GLU_BACKWARD, [gate, up, grad], results, scalars).into()
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let results = [like(&x)];
        let [y] = send(ROPE, [x, cos, sin], results, vec![ScalarIr::Bool(inverse)]);
        y
    }

    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dims = q.shape();
        let lse = Shape::new([dims[0], dims[1], dims[2]]);
        let results = [like(&q), (lse, widened(q.dtype()))];
        let operands = [q, k, v].into_iter().chain(mask.starts());
        send(ATTENTION, operands, results, attention_scalars(config)).into()
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
        let results = [like(&q), like(&k), like(&v)];
        let operands = [q, k, v, out, lse, grad].into_iter().chain(mask.starts());
        send(
            ATTENTION_BACKWARD,
            operands,
            results,
            attention_scalars(config),
        )
        .into()
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let results = [loss(&hidden)];
        let operands = [hidden, weight, targets];
        let [loss] = send(CROSS_ENTROPY, operands, results, logits_scalars(config));
        loss
    }

    fn linear_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let results = [loss(&hidden), like(&hidden)];
        let operands = [hidden, weight, targets];
        send(
            CROSS_ENTROPY_GRAD_HIDDEN,
            operands,
            results,
            logits_scalars(config),
        )
        .into()
    }

    fn linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let results = [loss(&hidden), like(&hidden), like(&weight)];
        let operands = [hidden, weight, targets];
        send(
            CROSS_ENTROPY_GRADS,
            operands,
            results,
            logits_scalars(config),
        )
        .into()
    }

    fn token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let results = [losses(&hidden)];
        let operands = [hidden, weight, targets];
        let [losses] = send(
            TOKEN_CROSS_ENTROPY,
            operands,
            results,
            logits_scalars(config),
        );
        losses
    }

    fn token_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let results = [losses(&hidden), like(&hidden)];
        let operands = [hidden, weight, targets];
        let scalars = logits_scalars(config);
        send(TOKEN_CROSS_ENTROPY_GRAD_HIDDEN, operands, results, scalars).into()
    }

    fn token_cross_entropy_grad_weight(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let results = [like(&weight)];
        let operands = [hidden, weight, targets, grad];
        let scalars = logits_scalars(config);
        let [dw] = send(TOKEN_CROSS_ENTROPY_GRAD_WEIGHT, operands, results, scalars);
        dw
    }

    fn lora_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let results = [loss(&hidden)];
        let operands = [hidden, weight, rows, factor, targets];
        let scalars = logits_scalars(config);
        let [loss] = send(LORA_CROSS_ENTROPY, operands, results, scalars);
        loss
    }

    fn lora_token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        let results = [losses(&hidden)];
        let operands = [hidden, weight, rows, factor, targets];
        let scalars = logits_scalars(config);
        let [losses] = send(LORA_TOKEN_CROSS_ENTROPY, operands, results, scalars);
        losses
    }

    fn lora_token_cross_entropy_grad_tokens(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let results = [losses(&hidden), like(&hidden), like(&rows)];
        let operands = [hidden, weight, rows, factor, targets];
        let scalars = logits_scalars(config);
        send(
            LORA_TOKEN_CROSS_ENTROPY_GRAD_TOKENS,
            operands,
            results,
            scalars,
        )
        .into()
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
        let results = [like(&factor)];
        let operands = [hidden, weight, rows, factor, targets, grad];
        let scalars = logits_scalars(config);
        let [dfactor] = send(
            LORA_TOKEN_CROSS_ENTROPY_GRAD_FACTOR,
            operands,
            results,
            scalars,
        );
        dfactor
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
        let results = [loss(&hidden), like(&hidden), like(&rows), like(&factor)];
        let operands = [hidden, weight, rows, factor, targets];
        let scalars = logits_scalars(config);
        send(LORA_CROSS_ENTROPY_GRADS, operands, results, scalars).into()
    }
}

/// Sends a product of two matrices.
fn product<C: RouterChannel>(
    id: &'static str,
    lhs: FloatTensor<BackendRouter<C>>,
    rhs: FloatTensor<BackendRouter<C>>,
) -> FloatTensor<BackendRouter<C>> {
    let shape = Shape::new([lhs.shape()[0], rhs.shape()[1]]);
    let results = [(shape, lhs.dtype())];
    let [y] = send(id, [lhs, rhs], results, vec![]);
    y
}

/// Returns the shape and dtype of a result that is like an operand.
fn like(operand: &impl TensorMetadata) -> (Shape, DType) {
    (operand.shape(), operand.dtype())
}

/// Returns those of one number a row of an operand.
fn of_rows(operand: &impl TensorMetadata) -> (Shape, DType) {
    let mut shape = operand.shape();
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    (shape, widened(operand.dtype()))
}

/// Returns those of a sum of losses.
fn loss(hidden: &impl TensorMetadata) -> (Shape, DType) {
    (Shape::new([1]), widened(hidden.dtype()))
}

/// Returns those of the loss of every token.
fn losses(hidden: &impl TensorMetadata) -> (Shape, DType) {
    (Shape::new([hidden.shape()[0]]), widened(hidden.dtype()))
}

/// Returns the dtype that an operand is computed in.
fn widened(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        _ => dtype,
    }
}
