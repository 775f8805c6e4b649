//! The tensors of a Hugging Face directory, held against what its config.json describes.
//!
//! - `names`: names that are those of another program.

mod names;

use std::collections::HashSet;

use nf4::bitsandbytes;

use super::hf::HfDirectory;
use super::safetensors::SafeTensorFiles;
use crate::config::{Biases, HfConfig};
use crate::error::DecoderError;
use crate::family::Family;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec, block_path};

/// Ends of names of what transformers once saved beside the weights, and makes itself.
const LEFTOVERS: [&str; 5] = [
    "inv_freq",
    ".cos_cached",
    ".sin_cached",
    ".masked_bias",
    ".position_ids",
];

/// Beginnings of the names of a decoder's tensors.
const OF_THE_DECODER: [&str; 2] = ["model.", "lm_head."];

/// Beginnings of names, below the whole model, of what turns images into embeddings.
const ABOUT_IMAGES: [&str; 4] = [
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "patch_merger.",
];

/// Lets the tensors say what the config.json leaves open, and checks that they are those of the model: each there and of a type
/// that can be read, and none beside them.
///
/// # Errors
/// [`DecoderError::MissingTensor`], [`DecoderError::TensorType`], [`DecoderError::UnusedTensor`]; a 4-bit weight without all
/// its parts; a head and an embedding that cannot be compared.
pub(super) fn reconcile(read: &mut HfConfig, directory: &HfDirectory) -> Result<(), DecoderError> {
    let weights = directory.weights();
    names::check(weights)?;
    if !read.decoder.tie_word_embeddings && !weights.contains(HEAD) {
        return Err(DecoderError::InvalidValue {
            path: weights.path_of(HEAD).to_path_buf(),
            key: HEAD.into(),
            found: "missing".into(),
            expected: "a head in the file, or `tie_word_embeddings` true in config.json if the embedding is the head"
                .into(),
        });
    }
    untie_another_head(read, weights)?;
    adopt_biases(read, weights);
    let mut used = HashSet::new();
    for spec in read.decoder.tensors() {
        if directory.is_quantized(&spec.name) {
            let parts = bitsandbytes::companion_names(&spec.name);
            check_parts(directory, &spec, &parts)?;
            used.extend(parts);
        } else {
            weights.float_type(&spec.name)?;
        }
        used.insert(spec.name);
    }
    judge_the_rest(read, weights, &used)
}

/// Reads a 4-bit weight that seems to lack a part, for the error that this gives.
fn check_parts(
    directory: &HfDirectory,
    spec: &TensorSpec,
    parts: &[String],
) -> Result<(), DecoderError> {
    let found = parts
        .iter()
        .filter(|part| directory.weights().contains(part));
    // Scales, a map and the state; with double quantization scales and a map more.
    if let (Ok(shape), false) = (
        <[usize; 2]>::try_from(&spec.shape[..]),
        matches!(found.count(), 3 | 5),
    ) {
        directory.read_quantized(&spec.name, shape)?;
    }
    Ok(())
}

/// Takes the head in the file where it is not the embedding, though the configuration ties them; a copy is left out.
fn untie_another_head(read: &mut HfConfig, weights: &SafeTensorFiles) -> Result<(), DecoderError> {
    let config = &mut read.decoder;
    let (Some(head), Some(embedding)) = (weights.tensor(HEAD), weights.tensor(EMBEDDING)) else {
        return Ok(());
    };
    if !config.tie_word_embeddings || head.has_bytes_of(&embedding)? {
        return Ok(());
    }
    let shape = [config.vocab_size, config.hidden_size];
    if head.dtype() != embedding.dtype()
        && weights.read_f32(HEAD, &shape)? == weights.read_f32(EMBEDDING, &shape)?
    {
        return Ok(());
    }
    config.tie_word_embeddings = false;
    read.warnings.push(format!(
        "{}: the configuration ties the head to the embedding, but the file has another one, which is used",
        weights.path_of(HEAD).display()
    ));
    Ok(())
}

/// Takes biases of attention that every layer of a LLaMA has, where its configuration does not say whether there are any: what
/// some programs make of other models.
fn adopt_biases(read: &mut HfConfig, weights: &SafeTensorFiles) {
    let config = &mut read.decoder;
    if config.family != Family::Llama || !read.silent_about_biases {
        return;
    }
    let in_every_layer = |path: &str| {
        let mut layers = 0..config.layers.len();
        layers.all(|layer| weights.contains(&format!("{}.{path}.bias", block_path(layer))))
    };
    let query_key_value = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
        .into_iter()
        .all(in_every_layer);
    if !query_key_value {
        return;
    }
    let output = in_every_layer("self_attn.o_proj");
    if !output {
        // LLaMA has all four or none.
        config.family = Family::Qwen2;
    }
    config.biases = Biases {
        query_key_value,
        output,
        ..config.biases
    };
    read.warnings.push(format!(
        "{}: the configuration does not mention the biases of attention in the file, which are used",
        weights.path_of(EMBEDDING).display()
    ));
}

/// Refuses tensors of the decoder that it does not use, and warns of those beside it, such as another head's.
fn judge_the_rest(
    read: &mut HfConfig,
    weights: &SafeTensorFiles,
    used: &HashSet<String>,
) -> Result<(), DecoderError> {
    let is_left_over = |name: &str| {
        let below = name.strip_prefix("model.").unwrap_or(name);
        LEFTOVERS.iter().any(|end| name.ends_with(end))
            || (name == HEAD && read.decoder.tie_word_embeddings)
            || (read.multimodal && ABOUT_IMAGES.iter().any(|start| below.starts_with(start)))
    };
    let rest = weights
        .names()
        .filter(|name| !used.contains(*name) && !is_left_over(name));
    let is_of_the_decoder =
        |name: &&str| OF_THE_DECODER.iter().any(|start| name.starts_with(start));
    let (mut inside, mut beside): (Vec<_>, Vec<_>) = rest.partition(is_of_the_decoder);
    inside.sort_unstable();
    beside.sort_unstable();
    if let Some(first) = inside.first() {
        return Err(DecoderError::UnusedTensor {
            path: weights.path_of(first).to_path_buf(),
            tensor: (*first).into(),
            others: inside.len() - 1,
        });
    }
    if let Some(first) = beside.first() {
        let others = match beside.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        read.warnings.push(format!(
            "{}: tensor `{first}`{others} beside the model's is left out",
            weights.path_of(first).display()
        ));
    }
    Ok(())
}
