//! Gemma: LLaMA with norms by `1 + w`, scaled embeddings, and GELU; the first, and what the later ones share.

use burn_fused::Activation;
use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{Biases, DecoderConfig, Defaults, Keys};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "gemma",
        hf_architectures: &["GemmaForCausalLM", "GemmaModel"],
    },
    defaults: Defaults {
        num_key_value_heads: Some(16),
        // What its first files say, and mean by it.
        gelu: Some(Activation::GeluTanh),
        ..DEFAULTS
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "gemma",
        interleaved: false,
        read: read_gguf,
        write: GgufFields::plain,
    },
};

/// Those that all of them have in common.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    activation: Activation::GeluTanh,
    ..Defaults::LLAMA
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = read_common(keys, Family::Gemma)?;
    config.rotations = vec![keys.rope(&config)?];
    Ok(config)
}

/// Reads what all Gemmas have.
pub(super) fn read_common(keys: &Keys, family: Family) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(family)?;
    // Each class reads one of the two keys; the other may say the same.
    for key in ["hidden_act", "hidden_activation"] {
        if keys
            .activation(key, &family.defaults())?
            .unwrap_or(config.activation)
            != config.activation
        {
            let value = keys.get(key).cloned().unwrap_or_default();
            return Err(keys.invalid(key, &value, "the same as the other key of the activation"));
        }
    }
    let embedding_multiplier = (config.hidden_size as f64).sqrt();
    Ok(config
        .with_norm_unit_offset(true)
        .with_embedding_multiplier(embedding_multiplier)
        .with_biases(Biases::of_attention(keys.flag("attention_bias")?)))
}

pub(super) fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    object["attention_bias"] = json!(config.biases.query_key_value);
    object["pad_token_id"] = Value::Null;
}

#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = read_common_gguf(keys, Family::Gemma)?;
    let rope = keys.rope(config.head_dim)?;
    Ok(config.with_rotations(vec![rope]))
}

/// Reads what the metadata of all Gemmas say.
#[cfg(feature = "gguf")]
pub(super) fn read_common_gguf(
    keys: &GgufKeys,
    family: Family,
) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(family)?;
    let embedding_multiplier = (config.hidden_size as f64).sqrt();
    Ok(config
        .with_activation(Activation::GeluTanh)
        .with_norm_unit_offset(true)
        .with_embedding_multiplier(embedding_multiplier))
}
