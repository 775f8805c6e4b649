//! `adapter_config.json`.

use crate::config::{LoraConfig, Targets};
use crate::error::LoraError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys that change what an adapter computes in ways this crate does not, each with the values that
/// leave it alone (besides null, false, empty lists and empty maps).
const MUST_BE_OFF: &[(&str, &[&str])] = &[
    ("alora_invocation_tokens", &[]),
    ("alpha_pattern", &[]),
    ("arrow_config", &[]),
    ("bias", &["none"]),
    ("exclude_modules", &[]),
    ("fan_in_fan_out", &[]),
    ("kasa_config", &[]),
    ("layer_replication", &[]),
    ("layers_pattern", &[]),
    ("layers_to_transform", &[]),
    ("lora_bias", &[]),
    ("modules_to_save", &[]),
    ("monteclora_config", &[]),
    ("rank_pattern", &[]),
    ("target_parameters", &[]),
    ("trainable_token_indices", &[]),
    ("use_bdlora", &[]),
    ("use_dora", &[]),
    ("use_qalora", &[]),
    ("velora_config", &[]),
];

/// The keys this crate acts on.
#[derive(Deserialize)]
struct Understood {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Option<Targets>,
}

/// An adapter configuration ready to be written.
pub struct AdapterConfig(Value);

impl AdapterConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`LoraError::Read`] when it cannot be read, [`LoraError::Malformed`] when it is no LoRA
    /// configuration, [`LoraError::UnsupportedAdapter`] when it asks for what this crate cannot compute.
    pub fn read(path: &Path) -> Result<LoraConfig, LoraError> {
        let malformed = |reason: String| LoraError::Malformed {
            path: path.to_owned(),
            expected: "peft adapter configuration",
            reason,
        };
        let text = std::fs::read(path).map_err(|source| LoraError::Read {
            path: path.to_owned(),
            source,
        })?;
        let keys: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let unsupported = |key: &str, value: &Value| LoraError::UnsupportedAdapter {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
        };
        for (key, neutral) in MUST_BE_OFF {
            if let Some(value) = keys.get(*key)
                && !is_off(value, neutral)
            {
                return Err(unsupported(key, value));
            }
        }
        let understood: Understood = serde_json::from_value(Value::Object(keys.clone()))
            .map_err(|error| malformed(error.to_string()))?;
        if let Some(kind) = &understood.peft_type
            && kind != "LORA"
        {
            return Err(unsupported("peft_type", &json!(kind)));
        }
        let config = LoraConfig {
            rank: understood.r,
            alpha: understood.lora_alpha,
            dropout: understood.lora_dropout,
            rslora: understood.use_rslora,
            targets: understood
                .target_modules
                .ok_or_else(|| malformed("missing field `target_modules`".into()))?,
        };
        config
            .validate()
            .map_err(|error| malformed(error.to_string()))?;
        Ok(config)
    }

    /// Returns the configuration of `config` on `base_model`, with every key that peft 0.21 writes, so that a
    /// newer peft finds what it looks for.
    pub fn new(config: &LoraConfig, targets: Targets, base_model: &str) -> Self {
        Self(json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": {},
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": base_model,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": whole(config.alpha),
            "lora_bias": false,
            "lora_dropout": config.dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": null,
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "qalora_group_size": 16,
            "r": config.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": targets,
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": false,
            "use_qalora": false,
            "use_rslora": config.rslora,
            "velora_config": null
        }))
    }

    /// Returns the file's text.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.0)
    }
}

/// The release whose format is written.
const PEFT_VERSION: &str = "0.21.2";

/// Returns whether `value` leaves the adapter an ordinary LoRA.
fn is_off(value: &Value, neutral: &[&str]) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => neutral.contains(&text.as_str()),
        _ => false,
    }
}

/// Returns `16.0` as `16`: older readers, llama.cpp's among them, want an integer where there is one.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
