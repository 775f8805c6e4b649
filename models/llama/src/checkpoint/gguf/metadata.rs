//! Typed access to GGUF metadata, and the configuration in it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::GgufFile;
use crate::config::{Biases, DecoderConfig, LayerConfig, MOST_LAYERS};
use crate::error::DecoderError;
use crate::family::Family;
use crate::rope::{RopeConfig, RopeScaling};

/// The metadata of one file, with errors that name file and key.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    path: &'a Path,
    values: &'a HashMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, values: &'a HashMap<String, Value>) -> Self {
        Self { path, values }
    }

    pub(super) fn missing(&self, key: &str) -> DecoderError {
        DecoderError::MissingKey {
            path: self.path.to_path_buf(),
            key: key.into(),
        }
    }

    pub(super) fn invalid(&self, key: &str, found: impl ToString, expected: &str) -> DecoderError {
        DecoderError::InvalidValue {
            path: self.path.to_path_buf(),
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(super) fn unsupported(
        &self,
        what: &'static str,
        found: &str,
        expected: &str,
    ) -> DecoderError {
        DecoderError::Unsupported {
            path: self.path.to_path_buf(),
            what,
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        as_integer(value)
            .or_else(|| match value {
                // One number a layer; this crate builds layers of one shape.
                Value::Array(values) => {
                    let first = as_integer(values.first()?)?;
                    values
                        .iter()
                        .all(|value| as_integer(value) == Some(first))
                        .then_some(first)
                }
                _ => None,
            })
            .map(Some)
            .ok_or_else(|| {
                self.invalid(key, kind(value), "a whole number, the same for all layers")
            })
    }

    fn size(&self, key: &str) -> Result<usize, DecoderError> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            // The shortest decimal of the f32: 1e-5 was meant, not 9.999999747378752e-6. Both
            // round to the same f32, and a config.json written from it reads as one would write it.
            Some(Value::F32(value)) => Ok(value.to_string().parse().ok()),
            Some(Value::F64(value)) => Ok(Some(*value)),
            Some(value) => Err(self.invalid(key, kind(value), "a number")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.invalid(key, kind(value), "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.invalid(key, kind(value), "true or false")),
        }
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, DecoderError> {
        self.integer(key)?
            .map(|id| u32::try_from(id).map_err(|_| self.invalid(key, id, "a token id")))
            .transpose()
    }

    pub(super) fn array(&self, key: &str) -> Result<Option<&'a [Value]>, DecoderError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(value) => Err(self.invalid(key, kind(value), "an array")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, DecoderError> {
        let Some(values) = self.array(key)? else {
            return Ok(None);
        };
        let texts = values.iter().map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            value => Err(self.invalid(
                key,
                format!("an array with {}", kind(value)),
                "an array of strings",
            )),
        });
        texts.collect::<Result<_, _>>().map(Some)
    }
}

pub(super) fn as_integer(value: &Value) -> Option<usize> {
    match value {
        Value::U8(v) => Some(usize::from(*v)),
        Value::U16(v) => Some(usize::from(*v)),
        Value::U32(v) => usize::try_from(*v).ok(),
        Value::U64(v) => usize::try_from(*v).ok(),
        Value::I8(v) => usize::try_from(*v).ok(),
        Value::I16(v) => usize::try_from(*v).ok(),
        Value::I32(v) => usize::try_from(*v).ok(),
        Value::I64(v) => usize::try_from(*v).ok(),
        _ => None,
    }
}

/// Returns a value in a few words, however long it is.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {} elements", values.len()),
        Value::String(text) => format!("the string {:.60?}", text),
        value => format!("{value:?}"),
    }
}

impl GgufFile {
    /// Reads the configuration from the `llama.*` keys and from which tensors there are.
    pub(super) fn read_config(&self) -> Result<DecoderConfig, DecoderError> {
        let keys = self.metadata();
        match keys.text("general.architecture")? {
            Some(name) if Family::of_gguf(name).is_some() => {}
            Some(other) => {
                return Err(keys.unsupported(
                    "architecture",
                    other,
                    "this crate builds the GGUF architecture `llama`",
                ));
            }
            None => return Err(keys.missing("general.architecture")),
        }
        if keys.integer("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(keys.unsupported(
                "mixture of experts",
                "llama.expert_count",
                "dense models are built",
            ));
        }
        if keys.integer("split.count")?.unwrap_or(1) > 1 {
            return Err(keys.unsupported(
                "split file",
                "split.count",
                "join the parts with llama-gguf-split --merge",
            ));
        }
        let hidden_size = keys.size("llama.embedding_length")?;
        let heads = keys.size("llama.attention.head_count")?;
        let head_dim = match keys.integer("llama.attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
            None => return Err(keys.missing("llama.attention.key_length")),
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(width) = keys.integer(key)?
                && width != head_dim
            {
                return Err(keys.invalid(key, width, &format!("the head width, {head_dim}")));
            }
        }
        let vocab_size = match keys.integer("llama.vocab_size")? {
            Some(size) => size,
            None => self
                .tensor_rows("model.embed_tokens.weight")
                .ok_or_else(|| keys.missing("llama.vocab_size"))?,
        };
        let layers = keys.size("llama.block_count")?;
        if layers > MOST_LAYERS {
            return Err(keys.invalid("llama.block_count", layers, "at most 65536"));
        }
        let attention_bias = self.contains("model.layers.0.self_attn.q_proj.bias");
        let config = DecoderConfig::new(
            vocab_size,
            hidden_size,
            keys.size("llama.feed_forward_length")?,
            heads,
            keys.integer("llama.attention.head_count_kv")?
                .unwrap_or(heads),
            head_dim,
            vec![LayerConfig::default(); layers],
        )
        .with_max_position_embeddings(keys.size("llama.context_length")?)
        .with_rms_norm_eps(
            keys.number("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| keys.missing("llama.attention.layer_norm_rms_epsilon"))?,
        )
        .with_rotations(vec![self.rope(head_dim)?])
        .with_tie_word_embeddings(!self.contains("lm_head.weight"))
        .with_biases(Biases {
            query_key_value: attention_bias,
            output: attention_bias,
            mlp: self.contains("model.layers.0.mlp.gate_proj.bias"),
        })
        .with_bos_token_id(keys.token("tokenizer.ggml.bos_token_id")?)
        .with_eos_token_ids(self.end_tokens()?);
        config.validate(self.path())?;
        Ok(config)
    }

    /// Returns end of text, and end of turn and of message where the file has one of its own.
    fn end_tokens(&self) -> Result<Vec<u32>, DecoderError> {
        let keys = self.metadata();
        let turn_end = match keys.token("tokenizer.ggml.eot_token_id")? {
            None => self.turn_end(),
            named => named,
        };
        let ends = [
            keys.token("tokenizer.ggml.eos_token_id")?,
            turn_end,
            keys.token("tokenizer.ggml.eom_token_id")?,
        ];
        let mut tokens: Vec<u32> = Vec::new();
        for token in ends.into_iter().flatten() {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(tokens)
    }

    fn rope(&self, head_dim: usize) -> Result<RopeConfig, DecoderError> {
        let keys = self.metadata();
        let theta = keys.number("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let factor = match keys.number("llama.rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => keys.number("llama.rope.scale_linear")?,
        };
        let kind = keys.text("llama.rope.scaling.type")?;
        let scaling = match (kind, factor) {
            (Some("linear"), None) => return Err(keys.missing("llama.rope.scaling.factor")),
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (None | Some("none"), _) => RopeScaling::Default,
            (Some(other), _) => {
                return Err(keys.unsupported(
                    "rope type",
                    other,
                    "known are none, linear and a tensor rope_freqs.weight",
                ));
            }
        };
        if !self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Ok(RopeConfig::new().with_theta(theta).with_scaling(scaling));
        }
        if scaling != RopeScaling::Default {
            return Err(keys.unsupported(
                "rope type",
                "linear with rope_freqs.weight",
                "one of the two",
            ));
        }
        // How llama.cpp stores the scaling of LLaMA 3.1 and later.
        let factors = self.read_f32("rope_freqs.weight", &[head_dim / 2])?;
        Ok(RopeConfig::new()
            .with_theta(theta)
            .with_scaling(RopeScaling::Factors(factors)))
    }
}
