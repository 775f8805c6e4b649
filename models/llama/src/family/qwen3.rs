//! Qwen 3: the windows of Qwen 2, and norms of each head's queries and keys.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names, qwen2};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, QueryKeyNorm};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "qwen3",
        hf_architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
    },
    defaults: Defaults {
        head_dim: Some(128),
        ..qwen2::DEFAULTS
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "qwen3",
        interleaved: false,
        read: read_gguf,
        write: GgufFields::plain,
    },
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

#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Qwen3)?;
    let rope = keys.rope(config.head_dim)?;
    Ok(config
        .with_rotations(vec![rope])
        .with_query_key_norm(Some(QueryKeyNorm::Head)))
}
