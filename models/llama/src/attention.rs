//! Grouped-query self-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_fused::{AttentionConfig, Epilogue};

use crate::cache::LayerCache;
use crate::config::{DecoderConfig, LayerConfig};
use crate::norm::RmsNorm;
use crate::projection::{LayerInput, Projection, Projections, exactly, forward_one};
use crate::rope::{Positions, Rotation};
use crate::tensors::ProjectionSpec;

/// Causal self-attention; several query heads share a key and value head.
///
/// Rows padded on the right need no mask: a token sees only what stands before it, so padding never
/// reaches a real token, and what comes out at padding positions is ignored by the loss.
#[derive(Module, Debug)]
#[cfg_attr(feature = "qlora", derive(burn_qlora::LoraLayers))]
pub struct Attention {
    /// `[hidden]` to q, `[heads · head_dim]`, and k and v, `[kv_heads · head_dim]`.
    #[cfg_attr(feature = "qlora", lora(flatten))]
    pub query_key_value: Projections,
    /// Norm of the queries before they rotate: of each head, or of all at once, by its width.
    pub q_norm: Option<RmsNorm>,
    /// Norm of the keys, like that of the queries.
    pub k_norm: Option<RmsNorm>,
    /// `[heads · head_dim]` to `[hidden]`.
    pub o_proj: Projection,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How scores are made and which keys are seen.
    #[module(skip)]
    pub scores: AttentionConfig,
    /// The rotation, by its number in the model's [`Positions`]; `None` where queries and keys do not rotate.
    #[module(skip)]
    pub rotation: Option<usize>,
}

/// The layers of an [`Attention`] that have parameters.
pub(crate) struct AttentionLayers {
    pub query_key_value: Vec<Projection>,
    pub query_key_norms: Option<[RmsNorm; 2]>,
    pub o_proj: Projection,
}

impl Attention {
    pub(crate) fn init(config: &DecoderConfig, layer: &LayerConfig, device: &Device) -> Self {
        let specs = config.projections();
        let init = |spec: &ProjectionSpec| spec.init(device);
        let norm = |width| RmsNorm::init(width, config.norm(), device);
        let layers = AttentionLayers {
            query_key_value: specs.query_key_value.iter().map(init).collect(),
            query_key_norms: config
                .query_key_norm_widths()
                .map(|widths| widths.map(norm)),
            o_proj: init(&specs.output),
        };
        Self::new(config, layer, layers)
    }

    pub(crate) fn new(
        config: &DecoderConfig,
        layer: &LayerConfig,
        layers: AttentionLayers,
    ) -> Self {
        let (wide, narrow) = (config.query_width(), config.key_value_width());
        let [q_norm, k_norm] = match layers.query_key_norms {
            Some(norms) => norms.map(Some),
            None => [None, None],
        };
        Self {
            query_key_value: Projections::new(
                &config.projections().query_key_value,
                layers.query_key_value,
                vec![wide, narrow, narrow],
            ),
            q_norm,
            k_norm,
            o_proj: layers.o_proj,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scores: AttentionConfig::new(config.attention_scale())
                .with_window(layer.window)
                .with_softcap(config.attention_softcap),
            rotation: layer.rotation,
        }
    }

    /// Maps `x: [batch, seq, hidden]` to the same shape, and that by the epilogue of one layer. With a cache, keys and values are
    /// appended to it and the queries see what is in it.
    pub fn forward(
        &self,
        x: LayerInput,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
        epilogue: Epilogue<3>,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.x.dims();
        let [q, k, v] = exactly(self.query_key_value.forward(x, Epilogue::None));
        let mut q = self.split(normalized(&self.q_norm, q), self.heads);
        let mut k = self.split(normalized(&self.k_norm, k), self.kv_heads);
        let v = self.split(v, self.kv_heads);
        let rotation = self.rotation.map(|rotation| &positions.rotations[rotation]);
        let starts = positions.starts.clone();
        let out = match cache {
            Some(cache) => {
                let angles = rotation.map(Rotation::angles);
                cache.attend([q, k, v], angles, starts, self.scores)
            }
            None => {
                if let Some(rotation) = rotation {
                    q = rotation.query.rotate(q);
                    k = rotation.key.rotate(k);
                }
                match starts {
                    Some(starts) => {
                        burn_fused::packed_causal_attention(q, k, v, starts, self.scores)
                    }
                    None => burn_fused::causal_attention(q, k, v, self.scores),
                }
            }
        };
        let out: Tensor<3> = out.reshape([batch, seq, self.heads * self.head_dim]);
        forward_one(&self.o_proj, out.into(), epilogue)
    }

    /// Returns `x: [batch, seq, heads · head_dim]` as `[batch, seq, heads, head_dim]`.
    fn split(&self, x: Tensor<3>, heads: usize) -> Tensor<4> {
        let [batch, seq, _] = x.dims();
        x.reshape([batch, seq, heads, self.head_dim])
    }
}

/// Normalizes `x: [batch, seq, width]` in pieces of the norm's width.
fn normalized(norm: &Option<RmsNorm>, x: Tensor<3>) -> Tensor<3> {
    let Some(norm) = norm else { return x };
    let [batch, seq, width] = x.dims();
    let [piece] = norm.weight.dims();
    let pieces = x.reshape([batch, seq, width / piece, piece]);
    norm.forward(pieces).reshape([batch, seq, width])
}
