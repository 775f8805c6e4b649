//! Quantizations of other kinds than are read, by what config.json says and by what the tensors are called.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::safetensors::SafeTensorFiles;
use crate::error::DecoderError;

/// What the tensors of methods are called at their end, in the order in which one tells the method.
const MARKS: [(&str, &str); 16] = [
    (".g_idx", "GPTQ"),
    (".qweight", "GPTQ or AWQ"),
    (".q_invperm", "EXL2"),
    (".q_weight", "EXL2"),
    (".trellis", "EXL3"),
    (".SCB", "bitsandbytes in 8 bits"),
    (".weight_packed", "compressed-tensors"),
    (".W_q", "HQQ"),
    (".codebooks", "AQLM"),
    (".weight_scale_inv", "FP8 (F8_E4M3)"),
    (".weight_scale", "FP8 (F8_E4M3) or compressed-tensors"),
    (".weight._data", "quanto"),
    ("_proj_blocks", "MXFP4"),
    (".scales", "MLX"),
    (".absmax", "bitsandbytes in 4 bits without its quant_state"),
    (".weight_scale_2", "ModelOpt"),
];

const EXPECTED: &str = "read are unquantized checkpoints, bitsandbytes in 4 bits and GGUF files; take the model that this \
                        one was made of";

/// A method that a config.json names.
#[derive(Debug)]
enum Claim {
    Bitsandbytes,
    Other(String),
}

/// Holds what the config.json says against the tensors; `stored` is whether bitsandbytes stored some of them in 4 bits.
/// Returns what the user should hear.
///
/// # Errors
/// [`DecoderError::Unsupported`] for every quantization but that of bitsandbytes in 4 bits.
pub(super) fn check(
    config: &Value,
    path: &Path,
    weights: &SafeTensorFiles,
    stored: bool,
) -> Result<Option<String>, DecoderError> {
    let refused = |path: &Path, found: String, expected: String| DecoderError::Unsupported {
        path: path.to_path_buf(),
        what: "quantization method",
        found,
        expected,
    };
    let mark = if stored { None } else { mark(weights) };
    match (claim(config), mark) {
        (Some(Claim::Other(method)), mark) => {
            let expected = match mark {
                Some(_) => EXPECTED.into(),
                None if weights.all_are_floats() => format!(
                    "{EXPECTED}; no tensor in the files is quantized: if the config.json is from before the model was \
                     dequantized, take that key out of it"
                ),
                None => EXPECTED.into(),
            };
            Err(refused(path, method, expected))
        }
        (_, Some((method, tensor))) => {
            let found = format!("{method}: tensor {tensor}");
            Err(refused(weights.path_of(tensor), found, EXPECTED.into()))
        }
        (Some(Claim::Bitsandbytes), None) if !stored => Ok(Some(format!(
            "{}: `quantization_config` says that the model is quantized, but its tensors are not",
            path.display()
        ))),
        _ => Ok(None),
    }
}

/// Returns the method that the config.json names.
fn claim(config: &Value) -> Option<Claim> {
    // mlx-lm writes a key of its own, and beside it at times the same under the usual one.
    if !config["quantization"].is_null() {
        return Some(Claim::Other("mlx-lm: key `quantization`".into()));
    }
    // compressed-tensors had its own before transformers knew it.
    if !config["compression_config"].is_null() {
        return Some(Claim::Other("compressed-tensors".into()));
    }
    let quantization = &config["quantization_config"];
    if quantization.is_null() {
        return None;
    }
    Some(match quantization["quant_method"].as_str() {
        Some("bitsandbytes") => Claim::Bitsandbytes,
        Some(other) => Claim::Other(other.into()),
        // Before it named itself.
        None if quantization["load_in_4bit"].is_boolean() => Claim::Bitsandbytes,
        None => Claim::Other(quantization["quant_method"].to_string()),
    })
}

/// Returns the method that the names of the tensors tell, and a tensor that does.
fn mark(weights: &SafeTensorFiles) -> Option<(&'static str, &str)> {
    MARKS.iter().find_map(|(end, method)| {
        let marked = weights.names().filter(|name| name.ends_with(end));
        Some((*method, marked.min()?))
    })
}
