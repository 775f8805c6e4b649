//! Granite: LLaMA with multipliers of embedding, attention, residual and logits.

use serde_json::{Value, json};

#[cfg(feature = "gguf")]
use super::GgufDefinition;
use super::{Definition, Family, Names};
#[cfg(feature = "gguf")]
use crate::checkpoint::{GgufFields, GgufKeys};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, reciprocal_of};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "granite",
        hf_architectures: &["GraniteForCausalLM", "GraniteModel"],
    },
    defaults: Defaults::LLAMA,
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GgufDefinition {
        architecture: "granite",
        interleaved: true,
        read: read_gguf,
        write: write_gguf,
    },
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Granite)?;
    let factor = |key: &str| Ok::<_, DecoderError>(keys.optional_number(key)?.unwrap_or(1.0));
    config.rotations = vec![keys.rope(&config)?];
    config.biases = Biases {
        mlp: keys.flag("mlp_bias")?,
        ..Biases::of_attention(keys.flag("attention_bias")?)
    };
    config.embedding_multiplier = factor("embedding_multiplier")?;
    config.residual_multiplier = factor("residual_multiplier")?;
    config.attention_scale = Some(factor("attention_multiplier")?);
    // transformers divides by it.
    config.logits_scale = 1.0 / factor("logits_scaling")?;
    Ok(config)
}

fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    object["attention_bias"] = json!(config.biases.query_key_value);
    object["mlp_bias"] = json!(config.biases.mlp);
    object["embedding_multiplier"] = json!(config.embedding_multiplier);
    object["residual_multiplier"] = json!(config.residual_multiplier);
    object["attention_multiplier"] = json!(config.attention_scale());
    object["logits_scaling"] = json!(reciprocal_of(config.logits_scale));
}

/// Reads the multipliers, which llama.cpp calls scales; that of the logits is a divisor.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Granite)?;
    if keys.flag("rope.scaling.finetuned")? == Some(false) {
        let expected = "Granite's dense models rotate queries and keys";
        return Err(keys.unsupported("rope type", "none at all", expected));
    }
    let rope = keys.rope(config.head_dim)?;
    let scale = |key: &str| Ok::<_, DecoderError>(keys.nonzero(key)?.unwrap_or(1.0));
    let divisor = keys.number("logit_scale")?;
    let divisor = divisor.ok_or_else(|| keys.missing("logit_scale"))?;
    Ok(config
        .with_rotations(vec![rope])
        .with_attention_scale(keys.nonzero("attention.scale")?)
        .with_embedding_multiplier(scale("embedding_scale")?)
        .with_residual_multiplier(scale("residual_scale")?)
        .with_logits_scale(1.0 / divisor))
}

#[cfg(feature = "gguf")]
fn write_gguf(config: &DecoderConfig, fields: &mut GgufFields) {
    GgufFields::plain(config, fields);
    fields.number("attention.scale", config.attention_scale());
    fields.number("embedding_scale", config.embedding_multiplier);
    fields.number("residual_scale", config.residual_multiplier);
    fields.number("logit_scale", reciprocal_of(config.logits_scale));
}
