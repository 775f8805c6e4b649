//! Hand-written backward passes: a parent that is not tracked costs nothing.

mod add_rms_norm;
mod attention;
mod cross_entropy;
mod glu;
mod lora_cross_entropy;
mod matmul;
mod rms_norm;
mod rope;
mod token_cross_entropy;
mod tracked;

use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_core::backend::tensor::{FloatTensor, IntTensor};

use nf4::glu::Activation;

use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::AttentionMask;
use crate::ops::FusedOps;

impl<B: FusedOps, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        matmul::matmul::<B, C>(lhs, rhs)
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        rms_norm::rms_norm::<B, C>(x, weight, config)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        add_rms_norm::add_rms_norm::<B, C>(x, residual, weight, config)
    }

    fn residual_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        add_rms_norm::residual_rms_norm::<B, C>(x, weight, config)
    }

    fn glu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        glu::glu::<B, C>(gate, up, activation)
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        rope::rope::<B, C>(x, cos, sin, inverse)
    }

    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> FloatTensor<Self> {
        attention::causal_attention::<B, C>(q, k, v, mask, config)
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        cross_entropy::linear_cross_entropy::<B, C>(hidden, weight, targets, config)
    }

    fn token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        token_cross_entropy::token_cross_entropy::<B, C>(hidden, weight, targets, config)
    }

    fn lora_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        lora_cross_entropy::linear::<B, C>(hidden, weight, [rows, factor], targets, config)
    }

    fn lora_token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        lora_cross_entropy::of_tokens::<B, C>(hidden, weight, [rows, factor], targets, config)
    }
}
