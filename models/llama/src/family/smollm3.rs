//! SmolLM3: LLaMA with layers that do not rotate, which can have a window.

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
        hf_model_type: "smollm3",
        hf_architectures: &["SmolLM3ForCausalLM", "SmolLM3Model"],
    },
    defaults: Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 32_768,
        rope_theta: 2_000_000.0,
        tie_word_embeddings: true,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "smollm3",
        interleaved: true,
        read: read_gguf,
        write: GgufFields::plain,
    },
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::SmolLm3)?;
    config.rotations = vec![keys.rope(&config)?];
    config.biases = Biases {
        mlp: keys.flag("mlp_bias")?,
        ..Biases::of_attention(keys.flag("attention_bias")?)
    };
    let rotates = rotating_layers(keys, config.layers.len())?;
    let uses_windows = keys.flag("use_sliding_window")?;
    let window = keys.optional_size("sliding_window")?;
    let window = window.filter(|_| uses_windows);
    config.layers = keys.windowed_layers(rotates.len(), window, |layer| {
        window.is_some() && !rotates[layer]
    })?;
    for (layer, rotates) in config.layers.iter_mut().zip(rotates) {
        layer.rotation = layer.rotation.filter(|_| rotates);
    }
    Ok(config)
}

/// Reads which of `count` layers rotate: those with a 1 in `no_rope_layers`.
fn rotating_layers(keys: &Keys, count: usize) -> Result<Vec<bool>, DecoderError> {
    const KEY: &str = "no_rope_layers";
    let interval = keys.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(value) = keys.get(KEY) else {
        if interval == 0 {
            let expected = "at least 1";
            return Err(keys.invalid("no_rope_layer_interval", &json!(0), expected));
        }
        let rotates = |layer: usize| !(layer + 1).is_multiple_of(interval);
        return Ok((0..count).map(rotates).collect());
    };
    let list = value.as_array().filter(|list| list.len() == count);
    let rotates = list.and_then(|list| {
        let rotates = list.iter().map(|flag| match flag.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => flag.as_bool(),
        });
        rotates.collect()
    });
    rotates.ok_or_else(|| keys.invalid(KEY, value, &format!("a list of {count}, each 0 or 1")))
}

fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    let rotates = config.layers.iter();
    let rotates = rotates.map(|layer| u8::from(layer.rotation.is_some()));
    object["no_rope_layers"] = rotates.collect();
    object["use_sliding_window"] = json!(config.window().is_some());
    object["sliding_window"] = json!(config.window());
    object["layer_types"] = config.layer_types();
    object["attention_bias"] = json!(config.biases.query_key_value);
    object["mlp_bias"] = json!(config.biases.mlp);
    object["pad_token_id"] = Value::Null;
}

/// Layers that llama.cpp does not rotate: every fourth, which the metadata cannot say.
#[cfg(feature = "gguf")]
const UNROTATED: usize = 4;

#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::SmolLm3)?;
    for layer in config
        .layers
        .iter_mut()
        .skip(UNROTATED - 1)
        .step_by(UNROTATED)
    {
        layer.rotation = None;
    }
    let rope = keys.rope(config.head_dim)?;
    Ok(config.with_rotations(vec![rope]))
}
