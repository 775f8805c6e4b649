//! Qwen 3: the windows of Qwen 2, and norms of each head's queries and keys.

use serde_json::{Value, json};

use super::{Definition, Family, Names, qwen2};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, QueryKeyNorm};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "qwen3",
        hf_architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
        #[cfg(feature = "gguf")]
        gguf_architecture: None,
    },
    defaults: Defaults {
        head_dim: Some(128),
        ..qwen2::DEFAULTS
    },
    read_hf,
    write_hf,
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Qwen3)?;
    config.rotations = vec![keys.rope(&config)?];
    config.query_key_norm = Some(QueryKeyNorm::Head);
    config.biases = Biases::of_attention(keys.flag("attention_bias")?);
    qwen2::upper_windows(keys, &mut config)?;
    Ok(config)
}

fn write_hf(config: &DecoderConfig, rotations: &[Value], object: &mut Value) {
    qwen2::write_hf(config, rotations, object);
    object["attention_bias"] = json!(config.biases.query_key_value);
}
