//! LLaMA, whose keys the other families' files take over.

use super::{Family, Names};
use crate::config::{Biases, DecoderConfig, Keys};
use crate::error::DecoderError;

pub(super) const NAMES: Names = Names {
    hf_model_type: "llama",
    hf_architecture: "LlamaForCausalLM",
    #[cfg(feature = "gguf")]
    gguf_architecture: Some("llama"),
};

pub(super) fn read_hf(keys: &Keys) -> Result<DecoderConfig, DecoderError> {
    match keys.text("hidden_act")? {
        None | Some("silu") => {}
        Some(other) => {
            return Err(keys.unsupported("activation", other, "LLaMA's MLP uses silu"));
        }
    }
    let attention = keys.flag("attention_bias")?;
    Ok(keys
        .decoder(Family::Llama)?
        .with_rotations(vec![keys.rope()?])
        .with_tie_word_embeddings(keys.flag("tie_word_embeddings")?)
        .with_biases(Biases {
            query_key_value: attention,
            output: attention,
            mlp: keys.flag("mlp_bias")?,
        }))
}
