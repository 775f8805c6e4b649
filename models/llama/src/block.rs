//! One decoder block.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_fused::Epilogue;

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::config::{DecoderConfig, LayerConfig};
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::projection::{LayerInput, Projection, fuses};
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

    /// Maps the residual stream before the block to that after it. With a cache, where no gradients are asked for, layers are computed
    /// in one with what is around them where that can be.
    pub fn forward(
        &self,
        x: Residual,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Residual {
        let is_cached = cache.is_some();
        let (x, input) = input(&self.attention_norm, x, is_cached);
        let x = self.add(
            &self.attention_output_norm,
            x,
            &self.self_attn.o_proj,
            is_cached,
            |epilogue| self.self_attn.forward(input, positions, cache, epilogue),
        );
        self.forward_mlp(x, is_cached)
    }

    /// Returns the residual stream before the block, and what goes into its attention, both `[batch, seq, hidden]`.
    #[cfg(feature = "qlora")]
    pub(crate) fn attention_input(&self, x: Residual) -> (Tensor<3>, Tensor<3>) {
        let (x, input) = input(&self.attention_norm, x, false);
        (x, input.x)
    }

    /// Runs [`forward`](Self::forward) from what [`attention_input`](Self::attention_input) gave.
    #[cfg(feature = "qlora")]
    pub(crate) fn forward_normalized(
        &self,
        x: Tensor<3>,
        normalized: Tensor<3>,
        positions: &Positions,
    ) -> Residual {
        let attended = self
            .self_attn
            .forward(normalized.into(), positions, None, Epilogue::None);
        let update = self.update(&self.attention_output_norm, attended);
        self.forward_mlp(Residual::new(x, update), false)
    }

    /// Maps the residual stream behind the attention to that after the block.
    fn forward_mlp(&self, x: Residual, is_cached: bool) -> Residual {
        let (x, input) = input(&self.mlp_norm, x, is_cached);
        self.add(
            &self.mlp_output_norm,
            x,
            &self.mlp.down_proj,
            is_cached,
            |epilogue| self.mlp.forward(input, epilogue),
        )
    }

    /// Returns the residual stream `x` and what attention or MLP adds to it, whose last layer is `last`: at once where that layer
    /// can, and else as an update, which the next norm adds.
    fn add(
        &self,
        norm: &Option<RmsNorm>,
        x: Tensor<3>,
        last: &Projection,
        is_cached: bool,
        forward: impl FnOnce(Epilogue<3>) -> Tensor<3>,
    ) -> Residual {
        let is_plain = norm.is_none() && self.residual_multiplier == 1.0;
        if is_cached && is_plain && fuses(last, &x) {
            return forward(Epilogue::Add { residual: x }).into();
        }
        let update = self.update(norm, forward(Epilogue::None));
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

/// Returns the residual stream as it is now, and what goes into the next layer: with a cache before the norm, if nothing is to be
/// added to the stream.
fn input(norm: &Option<RmsNorm>, x: Residual, is_cached: bool) -> (Tensor<3>, LayerInput) {
    let Some(norm) = norm else {
        let x = x.sum();
        return (x.clone(), x.into());
    };
    if is_cached && x.update.is_none() {
        let x = x.stream;
        let prologue = norm.prologue();
        return (x.clone(), LayerInput { x, prologue });
    }
    let (x, normalized) = norm.forward_residual(x);
    (x, normalized.into())
}
