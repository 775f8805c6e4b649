//! Ministral 3: Mistral with YaRN and a factor of the queries that grows with their positions.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names, mistral};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{DecoderConfig, Defaults, Keys, RopeKeys};
use crate::error::DecoderError;
use crate::rope::QueryScaling;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "ministral3",
        hf_architectures: &["Ministral3ForCausalLM", "Ministral3Model"],
    },
    defaults: Defaults {
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        max_position_embeddings: 262_144,
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "mistral3",
        interleaved: true,
        read: read_gguf,
        write: write_gguf,
    },
};

/// `rope_parameters` where a file has none.
static ROPE: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let keys = json!({
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale_all_dim": 1.0,
        "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    });
    keys.as_object().cloned().unwrap_or_default()
});

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Ministral3)?;
    let mut rope = keys.rope_keys()?;
    if rope.own.is_empty() {
        rope.own = keys.inside("rope_parameters", &ROPE);
    }
    let query_scaling = query_scaling(&rope, &config)?;
    let rotation = rope.read(&config, "rope_theta", DEFINITION.defaults.rope_theta)?;
    config.rotations = vec![rotation.with_query_scaling(query_scaling)];
    mistral::window_everywhere(keys, None, &mut config)?;
    Ok(config)
}

fn query_scaling(
    rope: &RopeKeys,
    config: &DecoderConfig,
) -> Result<Option<QueryScaling>, DecoderError> {
    let beta = rope.own.number("llama_4_scaling_beta")?;
    let original = rope.original_context(config.max_position_embeddings as f64)?;
    Ok((beta != 0.0).then_some(QueryScaling {
        beta,
        original_max_position_embeddings: original,
    }))
}

fn write_hf(config: &DecoderConfig, rotations: &[Value], object: &mut Value) {
    mistral::write_hf(config, rotations, object);
    let rope = &mut object["rope_parameters"];
    if rope["llama_4_scaling_beta"].is_null() {
        rope["llama_4_scaling_beta"] = json!(0.0);
    }
    object["pad_token_id"] = Value::Null;
}

#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Ministral3)?;
    let mut rope = keys.rope(config.head_dim)?;
    if let Some(beta) = keys.nonzero("attention.temperature_scale")? {
        rope.query_scaling = Some(QueryScaling {
            beta,
            original_max_position_embeddings: keys.original_context()? as f64,
        });
    }
    Ok(config.with_rotations(vec![rope]))
}

#[cfg(feature = "gguf")]
fn write_gguf(config: &DecoderConfig, fields: &mut GgufFields) {
    GgufFields::plain(config, fields);
    for rope in &config.rotations {
        if let Some(scaling) = rope.query_scaling {
            fields.number("attention.temperature_scale", scaling.beta);
        }
    }
}
