//! `config.json` of Hugging Face transformers: the keys of version 5 and the older ones.
//!
//! - `keys`: typed access.
//! - `rope`: rotary positions.

mod keys;
mod rope;

pub(crate) use keys::Keys;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{DecoderConfig, LayerConfig, MOST_LAYERS};
use crate::error::DecoderError;
use crate::family::Family;

impl DecoderConfig {
    /// Reads the text of a `config.json`; `path` is where it came from, for the errors.
    ///
    /// Both spellings are read: transformers 5 (`rope_parameters`) and before (`rope_theta`, `rope_scaling`).
    ///
    /// # Errors
    /// [`DecoderError::Malformed`] when it is not a JSON object, [`DecoderError::Unsupported`] for another
    /// architecture, activation or rope type, [`DecoderError::MissingKey`] and
    /// [`DecoderError::InvalidValue`] naming the key.
    pub fn from_hf_json(text: &str, path: &Path) -> Result<Self, DecoderError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| DecoderError::malformed(path, format!("not valid JSON: {error}")))?;
        let Value::Object(object) = value else {
            return Err(DecoderError::malformed(path, "expected a JSON object"));
        };
        let keys = Keys::new(&object, path);
        let config = Family::of_hf(&keys)?.read_hf(&keys)?;
        config.validate(path)?;
        Ok(config)
    }

    /// Returns the `config.json` of this model, in the keys of transformers 5; `dtype` is torch's name of the
    /// element type the unquantized tensors are stored in.
    ///
    /// # Errors
    /// [`DecoderError::Unsupported`] when the rope factors come from a GGUF tensor, which config.json cannot express.
    pub fn to_hf_json(&self, dtype: &str, path: &Path) -> Result<Value, DecoderError> {
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        Ok(json!({
            "architectures": [self.family.names().hf_architecture],
            "model_type": self.family.names().hf_model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers.len(),
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": self.rotations[0].to_hf(path)?,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.biases.query_key_value,
            "mlp_bias": self.biases.mlp,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "dtype": dtype,
        }))
    }
}

impl Keys<'_> {
    /// Reads what every family's config.json says in the same words.
    pub(crate) fn decoder(&self, family: Family) -> Result<DecoderConfig, DecoderError> {
        let hidden_size = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let head_dim = match self.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
            None => return Err(self.missing("head_dim")),
        };
        let config = DecoderConfig::new(
            self.size("vocab_size")?,
            hidden_size,
            self.size("intermediate_size")?,
            heads,
            self.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            vec![LayerConfig::default(); self.layers()?],
        );
        Ok(config
            .with_family(family)
            .with_max_position_embeddings(self.size("max_position_embeddings")?)
            .with_rms_norm_eps(self.number("rms_norm_eps")?)
            .with_bos_token_id(self.tokens("bos_token_id")?.first().copied())
            .with_eos_token_ids(self.tokens("eos_token_id")?))
    }

    /// Reads the number of layers, which must be one that a list can be made of.
    fn layers(&self) -> Result<usize, DecoderError> {
        let layers = self.size("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(self.invalid("num_hidden_layers", &json!(layers), "at most 65536"));
        }
        Ok(layers)
    }
}

/// Returns the end-of-text tokens of a `generation_config.json`, which for chat models name more than
/// config.json does.
pub(crate) fn generation_eos(text: &str, path: &Path) -> Result<Vec<u32>, DecoderError> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| DecoderError::malformed(path, format!("not a JSON object: {error}")))?;
    Keys::new(&object, path).tokens("eos_token_id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::{RopeConfig, RopeScaling};

    const MINIMAL: &str = r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":64,"rms_norm_eps":1e-6}"#;

    fn parse(text: &str) -> Result<DecoderConfig, DecoderError> {
        DecoderConfig::from_hf_json(text, Path::new("config.json"))
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.num_key_value_heads, 4);
        assert_eq!(config.head_dim, 4);
        assert_eq!(config.rotations, [RopeConfig::new()]);
        assert!(config.eos_token_ids.is_empty() && !config.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut config = parse(MINIMAL).unwrap();
        config.eos_token_ids = vec![7, 9];
        config.rotations[0].scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32.0,
        };
        let json = config
            .to_hf_json("float32", Path::new("config.json"))
            .unwrap();
        assert_eq!(parse(&json.to_string()).unwrap(), config);
    }

    #[test]
    fn every_needed_key_is_named_when_it_is_missing() {
        for key in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "rms_norm_eps",
            "model_type",
        ] {
            let mut object: Map<String, Value> = serde_json::from_str(MINIMAL).unwrap();
            object.remove(key);
            let error = parse(&Value::Object(object).to_string())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("config.json") && error.contains(key),
                "{error}"
            );
        }
    }

    #[test]
    fn another_architecture_is_refused_by_name() {
        let text = MINIMAL.replace("\"llama\"", "\"gemma\"");
        assert!(parse(&text).unwrap_err().to_string().contains("gemma"));
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let text = MINIMAL.replace("\"rms", "\"num_key_value_heads\":3,\"rms");
        assert!(
            parse(&text)
                .unwrap_err()
                .to_string()
                .contains("num_key_value_heads")
        );
    }
}
