//! Model files on disk: opened, validated, and read one tensor at a time.
//!
//! - `hf`: Hugging Face directories, plain or bitsandbytes 4-bit.
//! - `safetensors`: the weights of such a directory, single or sharded.
//! - `gguf`: llama.cpp's single files.
//! - `quantize`: a matrix brought to 4 bits as it is read.
//! - `special`: special tokens as plain data.
//! - `table`: the tensors of a directory against its config.json.

#[cfg(feature = "gguf")]
mod gguf;
mod hf;
mod quantize;
mod safetensors;
mod special;
mod table;

use std::path::{Path, PathBuf};

use nf4::QuantizedMatrix;
use tensor_files::Checksum;
use tokenizers::Tokenizer;

#[cfg(feature = "gguf")]
pub(crate) use self::gguf::GgufKeys;
pub(crate) use self::safetensors::FloatType;
pub use self::special::{SpecialToken, SpecialTokens};

use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::tensors::block_path;

/// An opened checkpoint: its configuration is read and its tensor table validated, its weights are still
/// on disk.
///
/// Tensors go by the names Hugging Face gives them (`model.layers.0.self_attn.q_proj.weight`), whatever
/// the file calls them. They are read on demand, one at a time, at positions checked against the file's
/// length: opening takes no memory to speak of, and a file that shrinks while it is read gives an error.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: DecoderConfig,
    warnings: Vec<String>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    HuggingFace(hf::HfDirectory),
    #[cfg(feature = "gguf")]
    Gguf(Box<gguf::GgufModel>),
}

impl Checkpoint {
    /// Opens a Hugging Face directory (plain or bitsandbytes 4-bit) or a `.gguf` file.
    ///
    /// # Errors
    /// A file that is missing, damaged, of another architecture or in a quantization that is not read; see
    /// [`DecoderError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DecoderError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(DecoderError::io(path))?;
        let (config, warnings, source) = if metadata.is_dir() {
            let (read, directory) = hf::HfDirectory::open(path)?;
            let source = Source::HuggingFace(directory);
            (read.decoder, read.warnings, source)
        } else {
            let (config, source) = Self::open_file(path)?;
            (config, Vec::new(), source)
        };
        Ok(Self {
            path: path.to_path_buf(),
            config,
            warnings,
            source,
        })
    }

    #[cfg(feature = "gguf")]
    fn open_file(path: &Path) -> Result<(DecoderConfig, Source), DecoderError> {
        let (config, model) = gguf::GgufModel::open(path)?;
        Ok((config, Source::Gguf(Box::new(model))))
    }

    #[cfg(not(feature = "gguf"))]
    fn open_file(path: &Path) -> Result<(DecoderConfig, Source), DecoderError> {
        Err(DecoderError::Unsupported {
            path: path.to_path_buf(),
            what: "file",
            found: path.display().to_string(),
            expected:
                "give a Hugging Face directory, or build with the feature `gguf` for .gguf files"
                    .into(),
        })
    }

    /// Returns where the checkpoint lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Returns what the user should hear of this checkpoint, a line each: what of it is left out, and which settings are not
    /// known.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads the tokenizer from `tokenizer.json`, or builds it from the GGUF metadata.
    ///
    /// # Errors
    /// [`DecoderError::MissingFile`] or [`DecoderError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, DecoderError> {
        match &self.source {
            Source::HuggingFace(directory) => directory.tokenizer(),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.tokenizer(),
        }
    }

    /// Reads the chat template, in Jinja, when the checkpoint has one.
    ///
    /// # Errors
    /// A tokenizer configuration that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, DecoderError> {
        match &self.source {
            Source::HuggingFace(directory) => directory.chat_template(),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => Ok(model.file.chat_template()),
        }
    }

    /// Reads the tokens with a role, which chat templates refer to.
    ///
    /// # Errors
    /// A tokenizer or its configuration that cannot be read.
    pub fn special_tokens(&self) -> Result<SpecialTokens, DecoderError> {
        match &self.source {
            Source::HuggingFace(directory) => directory.special_tokens(&self.config),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.special_tokens(),
        }
    }

    /// Returns whether the projections are stored in 4 bits by bitsandbytes.
    pub fn is_bitsandbytes(&self) -> bool {
        match &self.source {
            Source::HuggingFace(directory) => directory.is_bitsandbytes(),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => false,
        }
    }

    /// Returns a checksum of what decides what the model computes: config.json or the GGUF metadata, the names, types and
    /// shapes of all tensors, and of each tensor 64 KiB, which are all of a small one and pages at equal distances of a
    /// large one. It says nothing of where the files lie and how tensors are spread over them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn fingerprint(&self) -> Result<u64, DecoderError> {
        let mut sum = Checksum::default();
        match &self.source {
            Source::HuggingFace(directory) => directory.fingerprint(&mut sum)?,
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.fingerprint(&mut sum)?,
        }
        Ok(sum.value())
    }

    /// Reads a tensor as f32, row-major; one stored in 4 bits is dequantized.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape than `shape`, of a type that is not read, or damaged.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, DecoderError> {
        if let [rows, columns] = *shape
            && let Some(matrix) = self.read_quantized(name, [rows, columns])?
        {
            let mut values = vec![0.0; matrix.layout().elements()];
            qlora_cpu::dequantize(matrix.as_ref(), &mut values);
            return Ok(values);
        }
        match &self.source {
            Source::HuggingFace(directory) => directory.weights().read_f32(name, shape),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.read_f32(name, shape),
        }
    }

    /// Reads the 4-bit format of the first block's projection `o`, which is that of all; `None` when it is stored otherwise.
    ///
    /// # Errors
    /// The errors of [`read_quantized`](Self::read_quantized).
    pub fn stored_quantization(&self) -> Result<Option<nf4::QuantConfig>, DecoderError> {
        let first = self.config.projections().output;
        let name = format!("{}.{}.weight", block_path(0), first.path);
        let matrix = self.read_quantized(&name, first.shape)?;
        Ok(matrix.map(|matrix| matrix.layout().config()))
    }

    /// Reads a matrix that is stored in 4 bits, bit for bit; `None` when it is stored otherwise.
    ///
    /// # Errors
    /// Parts that are missing, contradict each other or `shape`, or are damaged.
    pub fn read_quantized(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        match &self.source {
            Source::HuggingFace(directory) => directory.read_quantized(name, shape),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(None),
        }
    }

    /// Returns the type to store an unquantized tensor in without loss.
    pub(crate) fn float_type(&self, name: &str) -> Result<FloatType, DecoderError> {
        match &self.source {
            Source::HuggingFace(directory) => directory.weights().float_type(name),
            // llama.cpp's blocks decode to values that only f32 holds exactly.
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(FloatType::F32),
        }
    }

    /// Returns the files beside the weights that belong to the tokenizer and the generation defaults; `None` when the
    /// weights' own file holds all that.
    pub(crate) fn companion_files(&self) -> Option<Vec<PathBuf>> {
        match &self.source {
            Source::HuggingFace(directory) => Some(directory.companion_files()),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => None,
        }
    }
}
