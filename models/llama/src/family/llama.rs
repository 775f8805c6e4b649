//! LLaMA, whose keys the other families' files take over.

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
        hf_model_type: "llama",
        // The third is how the class was spelt at first, the second what `AutoModel` saves.
        hf_architectures: &["LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"],
    },
    defaults: Defaults::LLAMA,
    read_hf,
    write_hf,
    #[cfg(feature = "gguf")]
    gguf: GGUF,
};

/// That of Mistral's files, too.
#[cfg(feature = "gguf")]
pub(super) const GGUF: GgufDefinition = GgufDefinition {
    architecture: "llama",
    interleaved: true,
    read: read_gguf,
    write: GgufFields::plain,
};

fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    let config = keys.decoder(Family::Llama)?;
    let rotation = keys.rope(&config)?;
    Ok(config.with_rotations(vec![rotation]).with_biases(Biases {
        mlp: keys.flag("mlp_bias")?,
        ..Biases::of_attention(keys.flag("attention_bias")?)
    }))
}

fn write_hf(config: &DecoderConfig, _rotations: &[Value], object: &mut Value) {
    object["attention_bias"] = json!(config.biases.query_key_value);
    object["mlp_bias"] = json!(config.biases.mlp);
}

/// Reads Mistral's models, too, whose window the metadata do not mention.
#[cfg(feature = "gguf")]
fn read_gguf(keys: &GgufKeys) -> Result<DecoderConfig, DecoderError> {
    let mut config = keys.decoder(Family::Llama)?;
    if config.biases.query_key_value && !config.biases.output {
        // LLaMA has all four or none.
        config.family = Family::Qwen2;
    }
    let rope = keys.rope(config.head_dim)?;
    Ok(config.with_rotations(vec![rope]))
}
