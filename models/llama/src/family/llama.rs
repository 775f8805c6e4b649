//! LLaMA, whose keys the other families' files take over.

use serde_json::{Value, json};

use super::{Definition, Family, Names};
use crate::config::{Biases, DecoderConfig, Defaults, Keys};
use crate::error::DecoderError;

pub(super) const DEFINITION: Definition = Definition {
    names: Names {
        hf_model_type: "llama",
        // The third is how the class was spelt at first, the second what `AutoModel` saves.
        hf_architectures: &["LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"],
        #[cfg(feature = "gguf")]
        gguf_architecture: Some("llama"),
    },
    defaults: Defaults::LLAMA,
    read_hf,
    write_hf,
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
