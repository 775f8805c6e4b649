//! The errors of reading, running and writing a model.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use tensor_files::TensorFileError;

use crate::dtype::{ComputeDtype, KvCacheDtype};

/// An error of this crate. Each message names the file, what was found in it and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// The operating system refused a file operation.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A checkpoint lacks a file it cannot do without.
    #[error("{path}: not found; {hint}", path = path.display())]
    MissingFile {
        /// The file that is missing.
        path: PathBuf,
        /// Its use, and the remedy.
        hint: String,
    },
    /// A path that stands for no model, or for several.
    #[error("{path}: {reason}", path = path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What it is instead, and what to give.
        reason: String,
    },
    /// An adapter in a model's place.
    #[error(
        "{path}: an adapter, not a model; {base}",
        path = path.display(),
        base = match base {
            Some(base) => format!("it belongs to {base}: give that as the model and this as its adapter"),
            None => "give the model that it was trained on, and this as its adapter".into(),
        }
    )]
    Adapter {
        /// The adapter's directory or file.
        path: PathBuf,
        /// The model that it says it was trained on.
        base: Option<String>,
    },
    /// A file does not follow its own format: truncated, lying sizes, not JSON and the like.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The rule that does not hold, its place in the file, and the remedy.
        reason: String,
    },
    /// Any other problem with a file.
    #[error(transparent)]
    File(TensorFileError),
    /// A configuration lacks a key the model cannot be built without.
    #[error("{path}: key `{key}` is missing; it is needed to build the model", path = path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key, as the file's format spells it.
        key: String,
    },
    /// A configuration value is of the wrong type or cannot be right.
    #[error("{path}: `{key}` is {found}, expected {expected}", path = path.display())]
    InvalidValue {
        /// The file.
        path: PathBuf,
        /// The key, as the file's format spells it.
        key: String,
        /// The value in the file.
        found: String,
        /// The values that are accepted.
        expected: String,
    },
    /// The checkpoint is of another model family, or of a LLaMA with something this crate does not build.
    #[error("{path}: {what} `{found}` is not supported; {expected}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The kind of thing: "architecture", "rope type", "quantization method".
        what: &'static str,
        /// The value in the file.
        found: String,
        /// The values that are accepted.
        expected: String,
    },
    /// A tensor the configuration asks for is not in the checkpoint.
    #[error("{path}: tensor `{tensor}` is missing; the checkpoint is incomplete or of another model", path = path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
    },
    /// A tensor in the checkpoint is not one of the model that the configuration describes.
    #[error(
        "{path}: tensor `{tensor}` is not part of the model that the configuration describes{others}; without it this would be \
         another model",
        path = path.display(),
        others = and_others(*.others),
    )]
    UnusedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// How many more there are.
        others: usize,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, but the configuration asks for {expected:?}", path = path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor is stored in an element type that cannot be read as weights.
    #[error("{path}: tensor `{tensor}` is stored as {found}; expected {expected}", path = path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The element type in the file.
        found: String,
        /// The types that can be read.
        expected: &'static str,
    },
    /// Quantizing a tensor, or reading a quantized one, failed.
    #[error("{path}: tensor `{tensor}`: {source}", path = path.display())]
    Quantization {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The format crate's reason.
        source: nf4::FormatError,
    },
    /// A checkpoint in plain numbers was asked to keep its blocks.
    #[error(
        "{path}: none of its linear layers is stored in blocks that could be kept; quantize them to nf4, or load them dense",
        path = path.display()
    )]
    NothingToKeep {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A 4-bit checkpoint was asked to be loaded in another 4-bit format.
    #[error(
        "{path}: tensor `{tensor}` is stored as {found} and would lose by being quantized again as {requested}; \
         load it as stored, or start from the unquantized checkpoint",
        path = path.display()
    )]
    AlreadyQuantized {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The stored format.
        found: String,
        /// The requested format.
        requested: String,
    },
    /// Weights whose full precision is needed are stored in less.
    #[error(
        "{path}: tensor `{tensor}` is stored in {found}, not in 16 or 32 bits; give the model that was quantized",
        path = path.display()
    )]
    StoredQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The stored format.
        found: String,
    },
    /// The tokenizer cannot be built from what the checkpoint holds.
    #[error("{path}: tokenizer: {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason, and the remedy.
        reason: String,
    },
    /// A prompt, or a prompt and the cache already filled, is longer than the model's context.
    #[error("{found} tokens do not fit the context of {limit}; shorten the prompt")]
    ContextLength {
        /// The tokens asked for.
        found: usize,
        /// The tokens that fit.
        limit: usize,
    },
    /// The cached keys were rotated for short sequences, and the sequence is now a long one.
    #[error(
        "the {cached} cached tokens are rotated as a short sequence, but {length} tokens make a long one; clear the cache \
         and give all tokens again"
    )]
    OutdatedCache {
        /// The tokens in the cache.
        cached: usize,
        /// The tokens that there would be.
        length: usize,
    },
    /// A prompt without a token cannot be continued.
    #[error("the prompt has no tokens; give at least one, such as the beginning-of-text token")]
    EmptyPrompt,
    /// A token id outside the vocabulary.
    #[error(
        "token {token} is outside the vocabulary of {vocab_size}; the tokenizer belongs to another model"
    )]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// A token that cannot be added to the vocabulary.
    #[error("token {token:?} cannot be added: {reason}")]
    AddedToken {
        /// Its text.
        token: String,
        /// The reason, and what to do about it.
        reason: String,
    },
    /// A sampling setting outside its range.
    #[error("sampling: {name} is {value}, expected {expected}")]
    Sampling {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// Its range.
        expected: &'static str,
    },
    /// The model's logits are no numbers to choose a token by.
    #[error("behind {tokens} tokens the model, computing in {name}, gives {what}; {remedy}", name = dtype.name(), remedy = remedy(*dtype))]
    NotFinite {
        /// The tokens that the model was given.
        tokens: usize,
        /// What is wrong with the logits.
        what: String,
        /// The dtype.
        dtype: DType,
    },
    /// A value that the type it is to be written in cannot hold.
    #[error(
        "{path}: tensor `{tensor}` has the value {value}, which is not finite in {dtype}; {remedy}",
        path = path.display(),
        remedy = if value.is_finite() { "write it in bfloat16 or float32" } else { "the checkpoint is damaged" },
    )]
    NotRepresentable {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor, by the name Hugging Face gives it.
        tensor: String,
        /// The first such value.
        value: f32,
        /// The type, by torch's name.
        dtype: &'static str,
    },
    /// An adapter is to be written, and none is given.
    #[error("{path}: there is no adapter to write; name one with --adapter", path = path.display())]
    NoAdapter {
        /// The model.
        path: PathBuf,
    },
    /// A setting of the model that a GGUF file cannot say.
    #[error(
        "{path}: GGUF has no words for {key} {value}: llama.cpp would compute with {said}; export the model with --to hf",
        path = path.display()
    )]
    NotInGguf {
        /// The checkpoint.
        path: PathBuf,
        /// The setting.
        key: String,
        /// The model's value.
        value: String,
        /// What a file says in its place.
        said: String,
    },
    /// An adapter that cannot be read, or does not fit the model.
    #[cfg(feature = "qlora")]
    #[error(transparent)]
    Lora(#[from] burn_qlora::LoraError),
    /// A weight could not be put into a page, or read from it.
    #[cfg(feature = "qlora")]
    #[error(transparent)]
    Paging(#[from] burn_paged::PagedError),
    /// The output directory holds something already.
    #[error("{path}: already holds files; choose a new directory or remove it first", path = path.display())]
    OutputExists {
        /// The directory.
        path: PathBuf,
    },
    /// The device does not have the dtype that was asked for.
    #[error(
        "{device} cannot compute in {dtype}; use f32, which every device can, or another device"
    )]
    ComputeDtype {
        /// The dtype.
        dtype: ComputeDtype,
        /// The device, as it prints.
        device: String,
    },
    /// A dtype that keys and values cannot be kept in.
    #[error(
        "keys and values cannot be kept in {dtype}: {reason}; use auto, which keeps them in what is computed in"
    )]
    KvCacheDtype {
        /// The dtype.
        dtype: KvCacheDtype,
        /// What speaks against it.
        reason: String,
    },
    /// A model of the process multiplies quantized weights by other numbers.
    #[error(
        "a model of this process does not compute in {dtype}: products in int8 are those of a whole process, so load either all models in int8 or none"
    )]
    QuantizedProducts {
        /// The dtype that was asked for.
        dtype: ComputeDtype,
    },
    /// The device failed while a tensor was read back.
    #[error("device: {reason}")]
    Device {
        /// The device's reason.
        reason: String,
    },
}

/// Returns what to do about numbers that a dtype cannot hold.
fn remedy(dtype: DType) -> &'static str {
    if dtype == DType::F16 {
        "f16 ends at 65504: compute in bf16 or f32 (--compute-dtype), whose range is larger"
    } else {
        "a weight of the model or of its adapter is not finite, or far too large: take another checkpoint"
    }
}

/// Returns the words for `others` more.
fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => ", nor is 1 other".into(),
        _ => format!(", nor are {others} others"),
    }
}

impl DecoderError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn not_a_model(path: &Path, reason: impl Into<String>) -> Self {
        Self::NotAModel {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

impl From<TensorFileError> for DecoderError {
    fn from(error: TensorFileError) -> Self {
        match error {
            TensorFileError::Read { path, source } | TensorFileError::Write { path, source } => {
                Self::Io { path, source }
            }
            TensorFileError::Malformed { path, fault } => Self::Malformed {
                path,
                reason: fault.to_string(),
            },
            TensorFileError::Occupied { path } => Self::OutputExists { path },
            other => Self::File(other),
        }
    }
}
