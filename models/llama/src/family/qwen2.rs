//! Qwen 2: LLaMA with biases of q, k and v, and windows in the upper layers if a switch is on.

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
        hf_model_type: "qwen2",
        hf_architectures: &["Qwen2ForCausalLM", "Qwen2Model"],
    },
    defaults: DEFAULTS,
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "qwen2",
        interleaved: false,
        read: read_gguf,
        write: GgufFields::plain,
    },
};

/// Those of Qwen 3, too.
pub(super) const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(32),
    max_position_embeddings: 32_768,
    ..Defaults::LLAMA
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Qwen2)?;
    config.rotations = vec![keys.rope(&config)?];
    config.biases = Biases {
        query_key_value: true,
        ..Biases::default()
    };
    upper_windows(keys, &mut config)?;
    Ok(config)
}

/// Reads the windows, which only `use_sliding_window` turns on.
pub(super) fn upper_windows(keys: &Keys, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let uses_windows = keys.flag("use_sliding_window")?;
    let window = keys.size_or_none("sliding_window", Some(4096))?;
    let window = window.filter(|_| uses_windows);
    let first = keys.optional_size("max_window_layers")?.unwrap_or(28);
    let count = config.layers.len();
    config.layers =
        keys.windowed_layers(count, window, |layer| window.is_some() && layer >= first)?;
    Ok(())
}

pub(super) fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    let window = config.window();
    let first = config
        .layers
        .iter()
        .position(|layer| layer.window.is_some());
    object["use_sliding_window"] = json!(window.is_some());
    object["sliding_window"] = json!(window);
    object["max_window_layers"] = json!(first.unwrap_or(config.layers.len()));
    object["layer_types"] = config.layer_types();
}

/// Reads metadata in which nothing says that q, k and v have biases, which they always have.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Qwen2)?;
    let rope = keys.rope(config.head_dim)?;
    let biases = Biases {
        query_key_value: true,
        ..config.biases
    };
    Ok(config.with_rotations(vec![rope]).with_biases(biases))
}
