//! What lies in a directory in place of a model, in words.

use std::path::Path;

use serde_json::Value;

use super::files;
use super::names::are_weights;
use crate::error::DecoderError;

const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Weights in forms that are not read, by the ends of their names in the order in which one speaks for the directory.
const FORMS: [(&str, &str, &str); 15] = [
    (
        "",
        ".distcp",
        "is a part of an FSDP checkpoint; `accelerate merge-weights` makes safetensors of them",
    ),
    (
        "zero_to_fp32",
        ".py",
        "says that this is a DeepSpeed checkpoint; `python zero_to_fp32.py . OUTPUT --safe_serialization` makes safetensors of it",
    ),
    ("pytorch_model", ".bin", PYTORCH),
    ("model", ".bin", PYTORCH),
    ("", ".ckpt", PYTORCH),
    ("consolidated", ".pth", META),
    ("consolidated", ".pt", META),
    ("weights", ".npz", MLX),
    ("weights", ".safetensors", MLX),
    (
        "consolidated",
        ".safetensors",
        "has the names of Mistral's own program, which are not read; fetch the model.safetensors of the same repository, or convert it with convert_mistral_weights_to_hf.py of transformers",
    ),
    (
        "",
        ".safetensors",
        "is there; if it holds the model's weights, call it model.safetensors",
    ),
    ("", ".onnx", ANOTHER),
    ("onnx", "", ANOTHER),
    ("", ".msgpack", FLAX_OR_KERAS),
    ("", ".h5", FLAX_OR_KERAS),
];

/// The same, where nothing above is there.
const OTHER_FORMS: [(&str, &str, &str); 7] = [
    ("openvino_model", "", ANOTHER),
    ("", ".engine", ANOTHER),
    ("", ".mlpackage", ANOTHER),
    ("", ".bin", PYTORCH),
    ("", ".pth", PYTORCH),
    ("", ".pt", PYTORCH),
    (
        "",
        ".incomplete",
        "says that a download has not ended; fetch the model again",
    ),
];

const META: &str = "is Meta's own form of the weights, which is not read; fetch the repository in Hugging Face's form \
                    (config.json and model.safetensors), or convert it with convert_llama_weights_to_hf.py of transformers";
const PYTORCH: &str = "is PyTorch's form of the weights, a pickle, which is not read; convert it to safetensors with \
                       transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)";
const MLX: &str =
    "is MLX's form of the weights, which is not read; take the model that it was made of";
const FLAX_OR_KERAS: &str = "is the form of the weights of Flax or Keras, which is not read; convert it to safetensors with \
                             transformers: AutoModelForCausalLM.from_pretrained(folder, from_flax=True or from_tf=True)\
                             .save_pretrained(folder)";
const ANOTHER: &str = "is for another program (ONNX, OpenVINO, TensorRT or Core ML) and is not read; fetch the model's safetensors";

/// Beginnings of the names of what a training run leaves beside the weights.
const OF_A_RUN: [&str; 5] = [
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "scaler",
];

/// Returns whether a file of this name belongs to an adapter.
pub(super) fn is_of_an_adapter(name: &str) -> bool {
    name == ADAPTER_CONFIG || name.starts_with("adapter_model.") || name == "adapters.safetensors"
}

/// Returns the error for a directory that holds an adapter, naming the model that it says it is for.
pub(super) fn adapter(directory: &Path) -> DecoderError {
    let text = files::read_text(&directory.join(ADAPTER_CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    // peft's key and mlx-lm's.
    let base = ["base_model_name_or_path", "model"]
        .iter()
        .find_map(|key| config[key].as_str())
        .filter(|name| !name.is_empty());
    DecoderError::Adapter {
        path: directory.to_path_buf(),
        base: base.map(str::to_owned),
    }
}

/// Returns the error for a directory without config.json.
pub(super) fn config(directory: &Path) -> DecoderError {
    match names(directory) {
        Err(error) => error,
        Ok(names) if names.iter().any(|name| is_of_an_adapter(name)) => adapter(directory),
        Ok(names) => DecoderError::MissingFile {
            path: directory.join("config.json"),
            hint: another_form(&names)
                .or_else(|| folders(directory, &names))
                .unwrap_or_else(|| {
                    "a model directory needs it; give the directory that holds config.json and model.safetensors, or fetch \
                     it from the model's repository"
                        .into()
                }),
        },
    }
}

/// Returns the error for a directory without weights that are read.
pub(super) fn weights(directory: &Path, expected: &Path) -> DecoderError {
    match names(directory) {
        Err(error) => error,
        Ok(names) if names.iter().any(|name| is_of_an_adapter(name)) => adapter(directory),
        Ok(names) => DecoderError::MissingFile {
            path: expected.to_path_buf(),
            hint: another_form(&names).unwrap_or_else(|| {
                "the weights are read from model.safetensors or from model.safetensors.index.json and its shards".into()
            }),
        },
    }
}

/// Returns the hint for a directory without tokenizer.json.
pub(super) fn tokenizer(directory: &Path) -> Result<String, DecoderError> {
    let names = names(directory)?;
    let known = |name: &&String| {
        ["vocab.json", "tekken.json"].contains(&name.as_str()) || name.ends_with(".model")
    };
    Ok(match names.iter().find(known) {
        Some(name) => format!(
            "{name} beside it is not read; AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers writes it"
        ),
        None => "the tokenizer is read from it; fetch it from the model's repository, or save the tokenizer again with \
                 transformers' fast tokenizer"
            .into(),
    })
}

fn names(directory: &Path) -> Result<Vec<String>, DecoderError> {
    files::names(directory)
}

/// Returns in words in which form the weights are.
fn another_form(names: &[String]) -> Option<String> {
    let is_known =
        |name: &str| are_weights(name) || OF_A_RUN.iter().any(|start| name.starts_with(start));
    FORMS
        .iter()
        .chain(&OTHER_FORMS)
        .find_map(|(start, end, words)| {
            let name = names
                .iter()
                .find(|name| name.starts_with(start) && name.ends_with(end) && !is_known(name))?;
            Some(format!("`{name}` {words}"))
        })
}

/// Returns a hint at folders that are models themselves.
fn folders(directory: &Path, names: &[String]) -> Option<String> {
    let is_a_model = |name: &&String| {
        let folder = directory.join(name);
        name.starts_with("models--")
            || [ADAPTER_CONFIG, "config.json"]
                .iter()
                .any(|file| folder.join(file).is_file())
    };
    let models: Vec<&String> = names.iter().filter(is_a_model).collect();
    let (first, others) = models.split_first()?;
    Some(match others.len() {
        0 => format!("give the folder in it: {}", directory.join(first).display()),
        more => format!(
            "give one of the {} folders in it, such as {}",
            more + 1,
            directory.join(first).display()
        ),
    })
}
