//! Root-mean-square normalization.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use burn_fused::{Prologue, RmsNormConfig};

use crate::config::DecoderConfig;
use crate::residual::Residual;

/// `x / sqrt(mean(x²) + eps)` over the last axis, times `weight`, or times `1 + weight` with a unit offset.
#[derive(Module, Debug)]
#[cfg_attr(feature = "qlora", derive(burn_qlora::LoraLayers))]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// What is added to the mean square, and whether there is an offset.
    #[module(skip)]
    pub config: RmsNormConfig,
}

impl DecoderConfig {
    pub(crate) fn norm(&self) -> RmsNormConfig {
        RmsNormConfig::new(self.rms_norm_eps).with_unit_offset(self.norm_unit_offset)
    }
}

impl RmsNorm {
    /// Returns a norm whose factors are all one.
    pub fn init(width: usize, config: RmsNormConfig, device: &Device) -> Self {
        let weight = if config.unit_offset {
            Tensor::zeros([width], device)
        } else {
            Tensor::ones([width], device)
        };
        Self {
            weight: Param::from_tensor(weight),
            config,
        }
    }

    /// Maps `x: [.., width]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        burn_fused::rms_norm(x, self.weight.val(), self.config)
    }

    /// Returns the norm for layers that it is computed in one with.
    pub(crate) fn prologue(&self) -> Prologue {
        Prologue::RmsNorm {
            weight: self.weight.val(),
            config: self.config,
        }
    }

    /// Returns the residual stream as it is now, and normalized, both `[batch, seq, hidden]`.
    pub fn forward_residual(&self, x: Residual) -> (Tensor<3>, Tensor<3>) {
        let Residual { stream, update } = x;
        match update {
            Some(update) => {
                burn_fused::add_rms_norm(update, stream, self.weight.val(), self.config)
            }
            None => burn_fused::residual_rms_norm(stream, self.weight.val(), self.config),
        }
    }
}
