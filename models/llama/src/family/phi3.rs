//! Phi-3: LLaMA with fused projections, of whose heads a part rotates, by longrope where the context is long.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names, mistral};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{DecoderConfig, Defaults, Keys};
use crate::error::DecoderError;
use crate::rope::{RopeConfig, RopeScaling};

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "phi3",
        hf_architectures: &["Phi3ForCausalLM", "Phi3Model"],
    },
    defaults: Defaults {
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "phi3",
        interleaved: false,
        read: read_gguf,
        write: write_gguf,
    },
};

const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Phi3)?.with_fused_projections(true);
    config.rotations = vec![rotation(keys, &config)?];
    mistral::window_everywhere(keys, None, &mut config)?;
    Ok(config)
}

fn rotation(keys: &Keys, config: &DecoderConfig) -> Result<RopeConfig, DecoderError> {
    let rope = keys.rope_keys()?;
    let own_part = rope.own.optional_number("partial_rotary_factor")?;
    let part = own_part.or(keys.optional_number("partial_rotary_factor")?);
    let part = part.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&part) {
        return Err(keys.invalid("partial_rotary_factor", &json!(part), "at most 1"));
    }
    let kind = rope.kind()?;
    let original = keys.optional_size(ORIGINAL_CONTEXT)?.unwrap_or(4096);
    let scaling = match kind {
        "default" => RopeScaling::Default,
        // The first configurations say su, and some of them yarn.
        "longrope" | "su" | "yarn" => {
            let written = rope.own.optional_size(ORIGINAL_CONTEXT)?;
            if written.is_some_and(|written| written != original) {
                let what = format!("is without effect; {original} beside `rope_scaling` applies");
                rope.own.warn(ORIGINAL_CONTEXT, &what);
            }
            rope.longrope(original, config)?
        }
        other => {
            let expected = "known in Phi-3 are default and longrope";
            return Err(keys.unsupported("rope type", other, expected));
        }
    };
    let theta = rope.theta("rope_theta", DEFINITION.defaults.rope_theta)?;
    rope.judge_the_rest(kind)?;
    let rotary_dim = (config.head_dim as f64 * part) as usize;
    Ok(RopeConfig::new()
        .with_theta(theta)
        .with_rotary_dim((rotary_dim != config.head_dim).then_some(rotary_dim))
        .with_scaling(scaling))
}

fn write_hf(config: &DecoderConfig, rotations: &[Value], object: &mut Value) {
    mistral::write_hf(config, rotations, object);
    if let Some(original) = rotations[0].get(ORIGINAL_CONTEXT) {
        object[ORIGINAL_CONTEXT] = original.clone();
    }
    object["pad_token_id"] = Value::Null;
}

/// Reads the window as well, which llama.cpp ignores.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Phi3)?;
    let window = keys.positive_integer("attention.sliding_window")?;
    for layer in &mut config.layers {
        layer.window = window;
    }
    let rope = keys.partial_rope(config.head_dim)?;
    Ok(config
        .with_rotations(vec![rope])
        .with_fused_projections(true))
}

/// Says that there is no window where there is none: to llama.cpp that tells Phi-4.
#[cfg(feature = "gguf")]
fn write_gguf(config: &DecoderConfig, fields: &mut GgufFields) {
    GgufFields::plain(config, fields);
    fields.size("attention.sliding_window", config.window().unwrap_or(0));
}
