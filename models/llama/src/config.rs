//! A decoder as data: everything in which the families of this crate differ, and nothing of where it was read.
//!
//! - [`DecoderConfig`]: the dimensions, and what holds for all layers.
//! - `block`: [`LayerConfig`], [`NormPlacement`], [`QueryKeyNorm`] and [`Biases`], what a block is made of.
//! - `hf`: the same from and to Hugging Face's config.json.

mod block;
mod hf;

pub use block::{Biases, LayerConfig, NormPlacement, QueryKeyNorm};
pub(crate) use hf::{
    Defaults, FULL, HfConfig, Keys, RopeKeys, SLIDING, generation_eos, reciprocal_of, whole,
};

use std::path::Path;

use burn::config::Config;
use burn_fused::Activation;

use crate::error::DecoderError;
use crate::family::Family;
use crate::rope::RopeConfig;

/// More layers than any model has: lists of layers are made before any file has shown that it holds that many.
pub(crate) const MOST_LAYERS: usize = 2048;

/// The dimensions and switches of a decoder.
///
/// Read from a Hugging Face `config.json` with [`DecoderConfig::from_hf_json`], or from GGUF metadata by
/// [`Checkpoint::open`](crate::Checkpoint::open). [`init`](DecoderConfig::init) gives a model with random weights. The
/// defaults are those of LLaMA.
#[derive(Config, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family by whose names the model's files go. The arithmetic does not ask for it.
    #[config(default = "Family::Llama")]
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// The decoder blocks, each with what it has of its own.
    pub layers: Vec<LayerConfig>,
    /// The longest row the model was made for, in tokens.
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMS norm.
    #[config(default = 1e-5)]
    pub rms_norm_eps: f64,
    /// Whether norms multiply by `1 + weight`, as Gemma's do, instead of by `weight`.
    #[config(default = false)]
    pub norm_unit_offset: bool,
    /// Where a block normalizes: what goes into attention and MLP, what comes out of them, or both.
    #[config(default = "NormPlacement::Before")]
    pub norm_placement: NormPlacement,
    /// The norm of queries and keys before they rotate.
    pub query_key_norm: Option<QueryKeyNorm>,
    /// The projections that have biases.
    #[config(default = "Biases::default()")]
    pub biases: Biases,
    /// Whether q, k and v are one matrix, and gate and up another.
    #[config(default = false)]
    pub fused_projections: bool,
    /// What the gate of the MLP goes through.
    #[config(default = "Activation::Silu")]
    pub activation: Activation,
    /// Factor of the attention scores; `None` for `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// The bound `c` of attention scores `c · tanh(score / c)`.
    pub attention_softcap: Option<f64>,
    /// Factor of the embeddings where they enter the residual stream.
    #[config(default = 1.0)]
    pub embedding_multiplier: f64,
    /// Factor of what attention and MLP add to the residual stream.
    #[config(default = 1.0)]
    pub residual_multiplier: f64,
    /// Factor of the logits, before their bound.
    #[config(default = 1.0)]
    pub logits_scale: f64,
    /// The bound `c` of logits `c · tanh(logit / c)`.
    pub logits_softcap: Option<f64>,
    /// The rotary position embeddings that layers choose from.
    #[config(default = "vec![RopeConfig::new()]")]
    pub rotations: Vec<RopeConfig>,
    /// Whether the head is the embedding matrix.
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or a turn.
    #[config(default = "Vec::new()")]
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Checks what the model's arithmetic relies on; `path` is named in the error.
    ///
    /// # Errors
    /// [`DecoderError::InvalidValue`] for a dimension that is zero, does not divide as it must, or whose
    /// matrices would not be addressable, and for a factor or a bound that is not a number to compute with.
    pub fn validate(&self, path: &Path) -> Result<(), DecoderError> {
        let invalid = |key: &str, found: String, expected: &str| DecoderError::InvalidValue {
            path: path.to_path_buf(),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        if self.layers.len() > MOST_LAYERS {
            return Err(invalid(
                "num_hidden_layers",
                self.layers.len().to_string(),
                "at most 2048",
            ));
        }
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers.len()),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 || value > i32::MAX as usize {
                return Err(invalid(
                    key,
                    value.to_string(),
                    "a number from 1 to 2147483647",
                ));
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(invalid(
                "num_key_value_heads",
                self.num_key_value_heads.to_string(),
                &format!(
                    "a divisor of num_attention_heads ({})",
                    self.num_attention_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid(
                "head_dim",
                self.head_dim.to_string(),
                "an even number",
            ));
        }
        // Every dimension is below 2^31, so each product of two fits 64 bits; 2^40 bounds what
        // one matrix may ask of memory before any file has shown that it holds that much.
        let widest = self
            .vocab_size
            .max(self.intermediate_size.saturating_mul(2))
            .max(self.query_width() + 2 * self.key_value_width());
        if (widest as u64).saturating_mul(self.hidden_size as u64) > 1 << 40 {
            return Err(invalid(
                "hidden_size",
                format!("{} beside a width of {widest}", self.hidden_size),
                "matrices of at most 2^40 elements",
            ));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(invalid(
                "rms_norm_eps",
                self.rms_norm_eps.to_string(),
                "a finite number that is not negative",
            ));
        }
        for (key, value) in [
            ("embedding_multiplier", Some(self.embedding_multiplier)),
            ("residual_multiplier", Some(self.residual_multiplier)),
            ("attention_multiplier", self.attention_scale),
            ("logits_scaling", Some(self.logits_scale)),
            ("attn_logit_softcapping", self.attention_softcap),
            ("final_logit_softcapping", self.logits_softcap),
        ] {
            if value.is_some_and(|value| !value.is_finite() || value <= 0.0) {
                let found = value.unwrap_or_default().to_string();
                return Err(invalid(key, found, "a positive number"));
            }
        }
        for layer in &self.layers {
            if layer.window == Some(0) {
                return Err(invalid("sliding_window", "0".into(), "at least 1, or null"));
            }
            if layer
                .rotation
                .is_some_and(|index| index >= self.rotations.len())
            {
                return Err(invalid(
                    "rope_parameters",
                    "none for some layers".into(),
                    "one for every kind of layer",
                ));
            }
        }
        let mut rotations = self.rotations.iter();
        rotations.try_for_each(|rotation| rotation.validate(self.head_dim, path))
    }

    /// Returns the length in tokens of the longest row: [`max_position_embeddings`](Self::max_position_embeddings), or what
    /// a rotation [stretches](crate::rope::RopeScaling::stretched_context) the context to.
    pub fn context_len(&self) -> usize {
        let rotations = self.rotations.iter();
        let stretched = rotations.filter_map(|rotation| rotation.scaling.stretched_context());
        stretched.fold(self.max_position_embeddings, usize::max)
    }

    /// Returns the width of the query projection: heads times head width.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.head_dim)
    }

    /// Returns the width of the key and of the value projection.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads.saturating_mul(self.head_dim)
    }

    /// Returns the factor of the attention scores.
    pub fn attention_scale(&self) -> f64 {
        self.attention_scale
            .unwrap_or_else(|| (self.head_dim as f64).powf(-0.5))
    }
}
