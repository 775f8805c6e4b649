//! Names of tensors that are not those of a Hugging Face model.

use crate::checkpoint::safetensors::SafeTensorFiles;
use crate::error::DecoderError;
use crate::tensors::EMBEDDING;

/// Parts of names that tell who gave them, and what to do.
const FOREIGN: [(&str, &str); 8] = [
    (
        ".lora_A.",
        "adapters that are not merged; merge_and_unload() of peft gives the model",
    ),
    (
        ".base_layer.",
        "layers that adapters were put around; merge_and_unload() of peft gives the model",
    ),
    (
        "base_model.model.",
        "the names inside peft's model; save the model that merge_and_unload() gives",
    ),
    (
        "_orig_mod.",
        "the names of a compiled model; save the model from before torch.compile",
    ),
    (
        "_fsdp_wrapped_module.",
        "the names inside FSDP's wrapper; save the model without it",
    ),
    (
        "module.",
        "the names inside a wrapper; save the model without it",
    ),
    (
        "tok_embeddings.weight",
        "the names of Meta's and Mistral's own programs; convert it with transformers",
    ),
    ("blk.0.", "the names of llama.cpp; give the GGUF file"),
];

/// Refuses files that lack the embedding or hold adapters, saying what they have.
///
/// # Errors
/// [`DecoderError::NotAModel`].
pub(super) fn check(weights: &SafeTensorFiles) -> Result<(), DecoderError> {
    let find = |part: &str| weights.names().filter(|name| name.contains(part)).min();
    if weights.contains(EMBEDDING) && find(".lora_A.").is_none() {
        return Ok(());
    }
    let known = FOREIGN
        .iter()
        .find_map(|(part, whose)| Some((find(part)?, *whose)));
    let missing = match weights.contains(EMBEDDING) {
        true => String::new(),
        false => format!("tensor `{EMBEDDING}` is missing; "),
    };
    let body = || weights.names().filter(|name| !name.starts_with("lm_head."));
    let unknown = || Some((body().min()?, "the names of another kind of model"));
    let reason = match known.or_else(unknown) {
        Some((name, whose)) => format!("{missing}`{name}` is there: {whose}"),
        None => format!("{missing}there is no tensor at all"),
    };
    Err(DecoderError::not_a_model(
        weights.path_of(EMBEDDING),
        reason,
    ))
}
