//! Mistral: LLaMA with one window in all layers.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::llama;
use super::{Definition, Family, Names};
use crate::config::{DecoderConfig, Defaults, Keys, LayerConfig};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "mistral",
        hf_architectures: &["MistralForCausalLM", "MistralModel"],
    },
    defaults: Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 4096 * 32,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
    // llama.cpp calls it llama, which has no window.
    #[cfg(feature = "gguf")]
    gguf: llama::GGUF,
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Mistral)?;
    config.rotations = vec![keys.rope(&config)?];
    window_everywhere(keys, Some(4096), &mut config)?;
    Ok(config)
}

/// Reads the window of all layers; `absent` is what the absence of its key means, and `null` that there is none.
pub(super) fn window_everywhere(
    keys: &Keys,
    absent: Option<usize>,
    config: &mut DecoderConfig,
) -> Result<(), DecoderError> {
    let window = keys.size_or_none("sliding_window", absent)?;
    for layer in &mut config.layers {
        *layer = LayerConfig {
            window,
            ..layer.clone()
        };
    }
    Ok(())
}

pub(super) fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    object["sliding_window"] = json!(config.window());
}
