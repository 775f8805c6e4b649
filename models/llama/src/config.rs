//! The shape of a LLaMA model, as its files describe it.

mod hf;

pub(crate) use hf::generation_eos;

use std::path::Path;

use burn::config::Config;

use crate::error::LlamaError;
use crate::rope::RopeConfig;

/// The dimensions and switches of a LLaMA model.
///
/// Read from a Hugging Face `config.json` with [`LlamaConfig::from_hf_json`], or from GGUF metadata by
/// [`Checkpoint::open`](crate::Checkpoint::open). [`init`](LlamaConfig::init) gives a model with random weights.
#[derive(Config, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// The longest row the model was made for, in tokens.
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMS norm.
    #[config(default = 1e-5)]
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    #[config(default = "RopeConfig::new()")]
    pub rope: RopeConfig,
    /// Whether the head is the embedding matrix.
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    #[config(default = false)]
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    #[config(default = false)]
    pub mlp_bias: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or a turn.
    #[config(default = "Vec::new()")]
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// Checks what the model's arithmetic relies on; `path` is named in the error.
    ///
    /// # Errors
    /// [`LlamaError::InvalidValue`] for a dimension that is zero, does not divide as it must, or whose
    /// matrices would not be addressable.
    pub fn validate(&self, path: &Path) -> Result<(), LlamaError> {
        let invalid = |key: &str, found: String, expected: &str| LlamaError::InvalidValue {
            path: path.to_path_buf(),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        // Lists of blocks are made before any file has shown that it holds that many.
        if self.num_hidden_layers > 1 << 16 {
            return Err(invalid(
                "num_hidden_layers",
                self.num_hidden_layers.to_string(),
                "at most 65536",
            ));
        }
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
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
            .max(self.intermediate_size)
            .max(self.num_attention_heads.saturating_mul(self.head_dim));
        if widest.saturating_mul(self.hidden_size) > 1 << 40 {
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
        self.rope.validate(self.head_dim, path)
    }

    /// Returns the width of the query projection: heads times head width.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Returns the width of the key and of the value projection.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
