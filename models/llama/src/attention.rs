//! Grouped-query self-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_fused::AttentionConfig;

use crate::cache::LayerCache;
use crate::config::LlamaConfig;
use crate::projection::Projection;
use crate::rope::Positions;

/// Causal self-attention with rotary positions; several query heads share a key and value head.
///
/// Rows padded on the right need no mask: a token sees only what stands before it, so padding never
/// reaches a real token, and what comes out at padding positions is ignored by the loss.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden]` to `[heads · head_dim]`.
    pub q_proj: Projection,
    /// `[hidden]` to `[kv_heads · head_dim]`.
    pub k_proj: Projection,
    /// `[hidden]` to `[kv_heads · head_dim]`.
    pub v_proj: Projection,
    /// `[heads · head_dim]` to `[hidden]`.
    pub o_proj: Projection,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Attention {
    pub(crate) fn init(config: &LlamaConfig, device: &Device) -> Self {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (wide, narrow) = (config.query_width(), config.key_value_width());
        Self::new(
            config,
            Projection::init(hidden, wide, bias, device),
            Projection::init(hidden, narrow, bias, device),
            Projection::init(hidden, narrow, bias, device),
            Projection::init(wide, hidden, bias, device),
        )
    }

    pub(crate) fn new(
        config: &LlamaConfig,
        q_proj: Projection,
        k_proj: Projection,
        v_proj: Projection,
        o_proj: Projection,
    ) -> Self {
        Self {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Maps `x: [batch, seq, hidden]` to the same shape. With a cache, keys and values are appended to it
    /// and the queries see everything in it.
    pub fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let split = |x: Tensor<3>, heads| x.reshape([batch, seq, heads, self.head_dim]);
        let rotate = |x| burn_fused::rope(x, positions.cos.clone(), positions.sin.clone());

        let q = rotate(split(self.q_proj.forward(x.clone()), self.heads));
        let k = rotate(split(self.k_proj.forward(x.clone()), self.kv_heads));
        let v = split(self.v_proj.forward(x), self.kv_heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let config = AttentionConfig::new((self.head_dim as f64).powf(-0.5));
        let out = match positions.starts.clone() {
            Some(starts) => burn_fused::packed_causal_attention(q, k, v, starts, config),
            None => burn_fused::causal_attention(q, k, v, config),
        };
        self.o_proj
            .forward(out.reshape([batch, seq, self.heads * self.head_dim]))
    }
}
