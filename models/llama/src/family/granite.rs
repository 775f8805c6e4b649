//! Granite: LLaMA with multipliers of embedding, attention, residual and logits.

use serde_json::{Value, json};

use super::{Definition, Family, Names};
use crate::config::{Biases, DecoderConfig, Defaults, Keys, reciprocal_of};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "granite",
        hf_architectures: &["GraniteForCausalLM", "GraniteModel"],
        #[cfg(feature = "gguf")]
        gguf_architecture: None,
    },
    defaults: Defaults::LLAMA,
    read_hf,
    write_hf,
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
