//! One decoder block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::cache::LayerCache;
use crate::rope::RopeTables;
use crate::{Attention, LlamaConfig, Mlp, RmsNorm};

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

    /// `x: [batch, seq, hidden]` to the same shape.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rope: &RopeTables,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let attended = self
            .self_attn
            .forward(self.input_layernorm.forward(x.clone()), rope, cache);
        let x = x + attended;
        let fed = self
            .mlp
            .forward(self.post_attention_layernorm.forward(x.clone()));
        x + fed
    }
}
