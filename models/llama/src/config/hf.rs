//! `config.json` of Hugging Face transformers: the keys of version 5 and the older ones.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::LlamaConfig;
use crate::error::LlamaError;
use crate::rope::{RopeConfig, RopeScaling};

impl LlamaConfig {
    /// Reads the text of a `config.json`; `path` is where it came from, for the errors.
    ///
    /// Both spellings are read: transformers 5 (`rope_parameters`) and before (`rope_theta`, `rope_scaling`).
    ///
    /// # Errors
    /// [`LlamaError::Malformed`] when it is not a JSON object, [`LlamaError::Unsupported`] for another
    /// architecture, activation or rope type, [`LlamaError::MissingKey`] and
    /// [`LlamaError::InvalidValue`] naming the key.
    pub fn from_hf_json(text: &str, path: &Path) -> Result<Self, LlamaError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| LlamaError::malformed(path, format!("not valid JSON: {error}")))?;
        let Value::Object(object) = value else {
            return Err(LlamaError::malformed(path, "expected a JSON object"));
        };
        let keys = Keys {
            object: &object,
            path,
        };
        keys.check_architecture()?;

        let hidden_size = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let head_dim = match keys.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
            None => return Err(keys.missing("head_dim")),
        };
        let config = LlamaConfig {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            max_position_embeddings: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.number("rms_norm_eps")?,
            rope: keys.rope()?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            bos_token_id: keys.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: keys.tokens("eos_token_id")?,
        };
        config.validate(path)?;
        Ok(config)
    }

    /// Returns the `config.json` of this model, in the keys of transformers 5; `dtype` is torch's name of the
    /// element type the unquantized tensors are stored in.
    ///
    /// # Errors
    /// [`LlamaError::Unsupported`] when the rope factors come from a GGUF tensor, which config.json cannot express.
    pub fn to_hf_json(&self, dtype: &str, path: &Path) -> Result<Value, LlamaError> {
        let mut rope = json!({ "rope_theta": self.rope.theta });
        match &self.rope.scaling {
            RopeScaling::Default => rope["rope_type"] = json!("default"),
            RopeScaling::Linear { factor } => {
                rope["rope_type"] = json!("linear");
                rope["factor"] = json!(factor);
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                rope["rope_type"] = json!("llama3");
                rope["factor"] = json!(factor);
                rope["low_freq_factor"] = json!(low_freq_factor);
                rope["high_freq_factor"] = json!(high_freq_factor);
                rope["original_max_position_embeddings"] = json!(original_max_position_embeddings);
            }
            RopeScaling::Factors(_) => {
                return Err(LlamaError::Unsupported {
                    path: path.to_path_buf(),
                    what: "rope scaling",
                    found: "rope_freqs.weight".into(),
                    expected: "config.json cannot express a tensor of factors; start from the Hugging Face checkpoint".into(),
                });
            }
        }
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "dtype": dtype,
        }))
    }
}

/// Returns the end-of-text tokens of a `generation_config.json`, which for chat models name more than
/// config.json does.
pub(crate) fn generation_eos(text: &str, path: &Path) -> Result<Vec<u32>, LlamaError> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| LlamaError::malformed(path, format!("not a JSON object: {error}")))?;
    Keys {
        object: &object,
        path,
    }
    .tokens("eos_token_id")
}

/// Typed access to one JSON object, with errors that name file and key. `null` counts as absent.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn missing(&self, key: &str) -> LlamaError {
        LlamaError::MissingKey {
            path: self.path.to_path_buf(),
            key: key.into(),
        }
    }

    fn invalid(&self, key: &str, found: &Value, expected: &str) -> LlamaError {
        LlamaError::InvalidValue {
            path: self.path.to_path_buf(),
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, LlamaError> {
        self.get(key)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok())
                    .ok_or_else(|| self.invalid(key, value, "a whole number"))
            })
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize, LlamaError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, LlamaError> {
        self.get(key)
            .map(|value| {
                value
                    .as_f64()
                    .ok_or_else(|| self.invalid(key, value, "a number"))
            })
            .transpose()
    }

    fn number(&self, key: &str) -> Result<f64, LlamaError> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    fn flag(&self, key: &str) -> Result<bool, LlamaError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.invalid(key, value, "true or false")),
        }
    }

    fn tokens(&self, key: &str) -> Result<Vec<u32>, LlamaError> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(value).map(|id| vec![id]),
        }
        .ok_or_else(|| self.invalid(key, value, "a token id or a list of them"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, LlamaError> {
        self.get(key)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| self.invalid(key, value, "a string"))
            })
            .transpose()
    }

    fn unsupported(&self, what: &'static str, found: &str, expected: &str) -> LlamaError {
        LlamaError::Unsupported {
            path: self.path.to_path_buf(),
            what,
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn check_architecture(&self) -> Result<(), LlamaError> {
        const EXPECTED: &str = "this crate builds LlamaForCausalLM (model_type `llama`)";
        let architectures = self.get("architectures").and_then(Value::as_array);
        let named: Vec<&str> = architectures
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        if !named.is_empty() && !named.contains(&"LlamaForCausalLM") {
            return Err(self.unsupported("architecture", &named.join(", "), EXPECTED));
        }
        match self.text("model_type")? {
            Some("llama") => {}
            Some(other) => return Err(self.unsupported("model type", other, EXPECTED)),
            None if named.is_empty() => return Err(self.missing("model_type")),
            None => {}
        }
        match self.text("hidden_act")? {
            None | Some("silu") => Ok(()),
            Some(other) => Err(self.unsupported("activation", other, "LLaMA's MLP uses silu")),
        }
    }

    fn rope(&self) -> Result<RopeConfig, LlamaError> {
        // Version 5 keeps everything in `rope_parameters`; before, theta stood at the top and the
        // scaling in `rope_scaling`, whose `rope_type` was once called `type`.
        let (object, prefix) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(Value::Object(object)), _) => (Some(object), "rope_parameters"),
            (None, Some(Value::Object(object))) => (Some(object), "rope_scaling"),
            (None, None) => (None, "rope_scaling"),
            (Some(other), _) => return Err(self.invalid("rope_parameters", other, "an object")),
            (None, Some(other)) => return Err(self.invalid("rope_scaling", other, "an object")),
        };
        let empty = Map::new();
        let inner = Keys {
            object: object.unwrap_or(&empty),
            path: self.path,
        };
        let theta = match inner.optional_number("rope_theta")? {
            Some(theta) => theta,
            // Absent in configurations of the first LLaMA, where transformers takes 10000.
            None => self.optional_number("rope_theta")?.unwrap_or(10_000.0),
        };
        for keys in [self, &inner] {
            if let Some(part) = keys.optional_number("partial_rotary_factor")?
                && part != 1.0
            {
                return Err(self.unsupported(
                    "partial_rotary_factor",
                    &part.to_string(),
                    "LLaMA rotates whole heads",
                ));
            }
        }
        let kind = match inner.text("rope_type")? {
            Some(kind) => Some(kind),
            None => inner.text("type")?,
        };
        let need = |key: &str| {
            inner
                .optional_number(key)?
                .ok_or_else(|| self.missing(&format!("{prefix}.{key}")))
        };
        let scaling = match kind {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear {
                factor: need("factor")?,
            },
            Some("llama3") => RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: need("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(self.unsupported(
                    "rope type",
                    other,
                    "known are default, linear and llama3",
                ));
            }
        };
        Ok(RopeConfig { theta, scaling })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":64,"rms_norm_eps":1e-6}"#;

    fn parse(text: &str) -> Result<LlamaConfig, LlamaError> {
        LlamaConfig::from_hf_json(text, Path::new("config.json"))
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.num_key_value_heads, 4);
        assert_eq!(config.head_dim, 4);
        assert_eq!(config.rope, RopeConfig::new());
        assert!(config.eos_token_ids.is_empty() && !config.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut config = parse(MINIMAL).unwrap();
        config.eos_token_ids = vec![7, 9];
        config.rope.scaling = RopeScaling::Llama3 {
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
