//! From a configuration to the metadata of a file: what `decoder`, `rope` and the families' readers read.

use candle_core::quantized::gguf_file::Value;

use super::rope::{FACTORS, LONG_FACTORS, SHORT_FACTORS, yarn_magnitude};
use crate::config::DecoderConfig;
use crate::rope::{RopeConfig, RopeScaling};

/// The keys `ARCHITECTURE.*`, which are given without that prefix, and the tensors that are a part of the configuration.
#[derive(Debug)]
pub(crate) struct GgufFields {
    prefix: String,
    /// In the order in which they were set, with their whole names.
    pub values: Vec<(String, Value)>,
    pub vectors: Vec<(&'static str, Vec<f32>)>,
}

impl GgufFields {
    pub(crate) fn new(architecture: &str) -> Self {
        Self {
            prefix: format!("{architecture}."),
            values: Vec::new(),
            vectors: Vec::new(),
        }
    }

    fn set(&mut self, key: &str, value: Value) {
        self.values.push((format!("{}{key}", self.prefix), value));
    }

    /// Sets a whole number; the configuration's dimensions are below 2^31.
    pub(crate) fn size(&mut self, key: &str, value: usize) {
        self.set(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
    }

    pub(crate) fn number(&mut self, key: &str, value: f64) {
        self.set(key, Value::F32(value as f32));
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.set(key, Value::String(value.into()));
    }

    pub(crate) fn flags(&mut self, key: &str, values: impl Iterator<Item = bool>) {
        self.set(key, Value::Array(values.map(Value::Bool).collect()));
    }

    /// Sets what a file says of a family without keys of its own.
    pub(crate) fn plain(config: &DecoderConfig, fields: &mut Self) {
        fields.decoder(config);
        if let Some(rope) = config.rotations.first() {
            fields.rope(rope, config);
        }
    }

    /// Sets the dimensions.
    pub(crate) fn decoder(&mut self, config: &DecoderConfig) {
        for (key, value) in [
            ("block_count", config.layers.len()),
            ("context_length", config.max_position_embeddings),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_key_value_heads),
            ("attention.key_length", config.head_dim),
            ("attention.value_length", config.head_dim),
            ("vocab_size", config.vocab_size),
        ] {
            self.size(key, value);
        }
        self.number("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
    }

    /// Sets the rotation. Dynamic scaling is left out: a file cannot say it.
    pub(crate) fn rope(&mut self, rope: &RopeConfig, config: &DecoderConfig) {
        let width = rope.rotary_dim_of(config.head_dim);
        self.size("rope.dimension_count", width);
        self.number("rope.freq_base", rope.theta);
        match &rope.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => {}
            RopeScaling::Linear { factor } => {
                self.text("rope.scaling.type", "linear");
                self.number("rope.scaling.factor", *factor);
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate: _,
                attention_factor,
            } => {
                self.text("rope.scaling.type", "yarn");
                self.number("rope.scaling.factor", *factor);
                self.original_context(*original_max_position_embeddings as usize);
                self.number("rope.scaling.yarn_beta_fast", *beta_fast);
                self.number("rope.scaling.yarn_beta_slow", *beta_slow);
                // llama.cpp multiplies its own factor by this one.
                let own = yarn_magnitude(*factor, 1.0);
                if *attention_factor != own {
                    self.number("rope.scaling.attn_factor", attention_factor / own);
                }
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                self.original_context(*original_max_position_embeddings);
                self.number("rope.scaling.attn_factor", *attention_factor);
                let narrow =
                    |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
                self.vectors.push((LONG_FACTORS, narrow(long_factor)));
                self.vectors.push((SHORT_FACTORS, narrow(short_factor)));
            }
            RopeScaling::Llama3 { .. } => {
                let plain = rope.clone().with_scaling(RopeScaling::Default);
                let [plain, scaled] =
                    [&plain, rope].map(|rope| rope.inverse_frequencies(config.head_dim, 1));
                let factors = plain.iter().zip(&scaled);
                let factors = factors.map(|(plain, scaled)| plain / scaled).collect();
                self.vectors.push((FACTORS, factors));
            }
            RopeScaling::Factors(factors) => self.vectors.push((FACTORS, factors.clone())),
        }
    }

    fn original_context(&mut self, length: usize) {
        self.size("rope.scaling.original_context_length", length);
    }
}
