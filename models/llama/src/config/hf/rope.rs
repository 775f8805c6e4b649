//! Rotary positions in a config.json.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Keys;
use crate::error::DecoderError;
use crate::rope::{RopeConfig, RopeScaling};

impl Keys<'_> {
    /// Reads the rotation of a model that has one for all layers.
    pub(crate) fn rope(&self) -> Result<RopeConfig, DecoderError> {
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
        let inner = Keys::new(object.unwrap_or(&empty), self.path());
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
        Ok(RopeConfig::new().with_theta(theta).with_scaling(scaling))
    }
}

impl RopeConfig {
    /// Returns the rotation in the words of transformers 5.
    pub(crate) fn to_hf(&self, path: &Path) -> Result<Value, DecoderError> {
        let mut rope = match &self.scaling {
            RopeScaling::Default => json!({ "rope_type": "default" }),
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Dynamic { factor, .. } => {
                json!({ "rope_type": "dynamic", "factor": factor })
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "attention_factor": attention_factor,
            }),
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => json!({
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "attention_factor": attention_factor,
            }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::Factors(_) => {
                return Err(DecoderError::Unsupported {
                    path: path.to_path_buf(),
                    what: "rope scaling",
                    found: "rope_freqs.weight".into(),
                    expected: "config.json cannot express a tensor of factors; start from the Hugging Face checkpoint".into(),
                });
            }
        };
        rope["rope_theta"] = json!(self.theta);
        Ok(rope)
    }
}
