//! One decoder block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::config::LlamaConfig;
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::residual::Residual;
use crate::rope::Positions;

/// Attention and MLP, each behind its norm and added to the residual stream.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention.
    pub self_attn: Attention,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: Mlp,
}

impl Block {
    pub(crate) fn init(config: &LlamaConfig, device: &Device) -> Self {
        let norm = || RmsNorm::init(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::init(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::init(config, device),
        }
    }

    /// Maps the residual stream before the block to that after it.
    pub fn forward(
        &self,
        x: Residual,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Residual {
        let (x, normalized) = self.input_layernorm.forward_residual(x);
        self.forward_normalized(x, normalized, positions, cache)
    }

    /// Runs [`forward`](Self::forward) from after the first norm, which gave `x` and `normalized`, both
    /// `[batch, seq, hidden]`.
    pub(crate) fn forward_normalized(
        &self,
        x: Tensor<3>,
        normalized: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Residual {
        let attended = self.self_attn.forward(normalized, positions, cache);
        let (x, normalized) = self
            .post_attention_layernorm
            .forward_residual(Residual::new(x, attended));
        Residual::new(x, self.mlp.forward(normalized))
    }
}
