//! Root-mean-square normalization.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use burn_fused::RmsNormConfig;

use crate::residual::Residual;

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// Returns a norm with all weights one.
    pub fn init(hidden_size: usize, eps: f64, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([hidden_size], device)),
            eps,
        }
    }

    /// Maps `x: [.., hidden]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        burn_fused::rms_norm(x, self.weight.val(), self.config())
    }

    /// Returns the residual stream as it is now, and normalized, both `[batch, seq, hidden]`.
    pub fn forward_residual(&self, x: Residual) -> (Tensor<3>, Tensor<3>) {
        let Residual { stream, update } = x;
        let weight = self.weight.val();
        match update {
            Some(update) => burn_fused::add_rms_norm(update, stream, weight, self.config()),
            None => burn_fused::residual_rms_norm(stream, weight, self.config()),
        }
    }
    fn config(&self) -> RmsNormConfig {
        RmsNormConfig::new(self.eps)
    }
}
