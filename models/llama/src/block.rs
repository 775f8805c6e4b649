//! One decoder block.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::config::{DecoderConfig, LayerConfig};
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::residual::Residual;
use crate::rope::Positions;

/// Attention and MLP, each added to the residual stream, with norms before, after or around them.
#[derive(Module, Debug)]
#[cfg_attr(feature = "qlora", derive(burn_qlora::LoraLayers))]
pub struct Block {
    /// Norm of what goes into the attention.
    pub attention_norm: Option<RmsNorm>,
    /// The attention.
    pub self_attn: Attention,
    /// Norm of what comes out of the attention.
    pub attention_output_norm: Option<RmsNorm>,
    /// Norm of what goes into the MLP.
    pub mlp_norm: Option<RmsNorm>,
    /// The MLP.
    pub mlp: Mlp,
    /// Norm of what comes out of the MLP.
    pub mlp_output_norm: Option<RmsNorm>,
    /// Factor of what attention and MLP add to the residual stream.
    pub residual_multiplier: f64,
}

impl Block {
    pub(crate) fn init(config: &DecoderConfig, layer: &LayerConfig, device: &Device) -> Self {
        let norms = config.norms();
        let norm = |path: Option<&str>| {
            path.map(|_| RmsNorm::init(config.hidden_size, config.norm(), device))
        };
        Self {
            attention_norm: norm(norms.attention),
            self_attn: Attention::init(config, layer, device),
            attention_output_norm: norm(norms.attention_output),
            mlp_norm: norm(norms.mlp),
            mlp: Mlp::init(config, device),
            mlp_output_norm: norm(norms.mlp_output),
            residual_multiplier: config.residual_multiplier,
        }
    }

    /// Maps the residual stream before the block to that after it.
    pub fn forward(
        &self,
        x: Residual,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Residual {
        let (x, normalized) = self.attention_input(x);
        self.forward_normalized(x, normalized, positions, cache)
    }

    /// Returns the residual stream before the block, and what goes into its attention, both `[batch, seq, hidden]`.
    pub(crate) fn attention_input(&self, x: Residual) -> (Tensor<3>, Tensor<3>) {
        input(&self.attention_norm, x)
    }

    /// Runs [`forward`](Self::forward) from what [`attention_input`](Self::attention_input) gave.
    pub(crate) fn forward_normalized(
        &self,
        x: Tensor<3>,
        normalized: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Residual {
        let attended = self.self_attn.forward(normalized, positions, cache);
        let attended = self.update(&self.attention_output_norm, attended);
        let (x, normalized) = input(&self.mlp_norm, Residual::new(x, attended));
        let update = self.update(&self.mlp_output_norm, self.mlp.forward(normalized));
        Residual::new(x, update)
    }

    /// Returns what is added to the residual stream, given what attention or MLP put out.
    fn update(&self, norm: &Option<RmsNorm>, output: Tensor<3>) -> Tensor<3> {
        let output = match norm {
            Some(norm) => norm.forward(output),
            None => output,
        };
        if self.residual_multiplier == 1.0 {
            return output;
        }
        // In f32, as torch multiplies by a number: one that is rounded to bf16 first is up to 0.4 % off in every layer.
        let dtype = output.dtype();
        let product = output.cast(DType::F32) * self.residual_multiplier;
        product.cast(dtype)
    }
}

/// Returns the residual stream as it is now, and what goes into the next layer.
fn input(norm: &Option<RmsNorm>, x: Residual) -> (Tensor<3>, Tensor<3>) {
    match norm {
        Some(norm) => norm.forward_residual(x),
        None => {
            let x = x.sum();
            (x.clone(), x)
        }
    }
}
