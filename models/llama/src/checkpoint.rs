//! Model files on disk: opened, validated, and read one tensor at a time.
//!
//! - `hf`: Hugging Face directories, plain or bitsandbytes 4-bit.
//! - `safetensors`: the weights of such a directory, single or sharded.
//! - `gguf`: llama.cpp's single files.
//! - `quantize`: a matrix brought to 4 bits as it is read.
//! - `special`: special tokens as plain data.
//! - `table`: the tensors of a directory against its config.json.
//! - `location`: what a path that is given as a model stands for.
//! - `extended`: tokens that a vocabulary is extended by.
//! - `absent`: what lies in a model's place, in words.
//! - `names`, `files`: names of files with weights; files that are found and read.

mod absent;
mod extended;
mod files;
#[cfg(feature = "gguf")]
mod gguf;
mod hf;
mod location;
mod names;
mod quantize;
mod safetensors;
mod special;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nf4::{Format, QuantizedMatrix};
use tensor_files::Checksum;
#[cfg(feature = "gguf")]
use tensor_files::InputFile;
use tokenizers::{AddedToken, Tokenizer};

use self::extended::MeanRow;
#[cfg(feature = "gguf")]
pub(crate) use self::gguf::{GgufFields, GgufKeys};
#[cfg(all(feature = "gguf", feature = "qlora"))]
pub(crate) use self::gguf::{GgufModel, Layout, Piece, RowOrder, Stored};
use self::location::Location;
#[cfg(feature = "qlora")]
pub(crate) use self::names::{INDEX, Part, SINGLE};
#[cfg(feature = "qlora")]
pub(crate) use self::safetensors::CHECKSUMS;
pub use self::safetensors::FloatType;
pub use self::special::{SpecialToken, SpecialTokens};

use crate::config::DecoderConfig;
use crate::error::DecoderError;

/// An opened checkpoint: its configuration is read and its tensor table validated, its weights are still
/// on disk.
///
/// Tensors go by the names Hugging Face gives them (`model.layers.0.self_attn.q_proj.weight`), whatever
/// the file calls them. They are read on demand, one at a time, at positions checked against the file's
/// length: opening takes no memory to speak of, and a file that shrinks while it is read gives an error.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: DecoderConfig,
    warnings: Vec<String>,
    source: Arc<Source>,
    /// Tokens that were added to the vocabulary.
    added: Vec<AddedToken>,
    /// Rows of embedding and head in the files.
    stored_vocab: usize,
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
    /// A file of a directory stands for it, a directory for the only GGUF file in it, a folder of the Hub's cache for its
    /// snapshot, and a part of a GGUF file that was split for all parts.
    ///
    /// # Errors
    /// A file that is missing, damaged, of another architecture or in a quantization that is not read; see
    /// [`DecoderError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DecoderError> {
        match location::find(path.as_ref())? {
            Location::Directory(path) => {
                let (read, directory) = hf::HfDirectory::open(&path)?;
                let checkpoint = Self::new(path, read.decoder, Source::HuggingFace(directory));
                Ok(Self {
                    warnings: read.warnings,
                    ..checkpoint
                })
            }
            Location::Gguf(path) => {
                let (config, source) = Self::open_file(&path)?;
                Ok(Self::new(path, config, source))
            }
        }
    }

    /// Reads a `.gguf` file that is in memory: what a program has received where there are no files, as in a browser. `name` is what
    /// errors call it.
    ///
    /// # Errors
    /// As for [`open`](Self::open); a file that is a part of several is refused.
    #[cfg(feature = "gguf")]
    pub fn of_gguf(name: &str, bytes: Vec<u8>) -> Result<Self, DecoderError> {
        let (config, model) = gguf::GgufModel::of_input(InputFile::of_bytes(name, bytes))?;
        let source = Source::Gguf(Box::new(model));
        Ok(Self::new(name.into(), config, source))
    }

    /// Returns one with the vocabulary that it is stored with.
    fn new(path: PathBuf, config: DecoderConfig, source: Source) -> Self {
        Self {
            path,
            stored_vocab: config.vocab_size,
            config,
            warnings: Vec::new(),
            source: Arc::new(source),
            added: Vec::new(),
        }
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

    /// Returns its files: of a directory the configuration, the tokenizer's and other small ones, and then the weights.
    pub fn files(&self) -> Vec<PathBuf> {
        match &*self.source {
            Source::HuggingFace(directory) => directory.files(),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.paths(),
        }
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

    /// Reads the tokenizer from `tokenizer.json`, or builds it from the GGUF metadata, and adds the tokens that were
    /// [added](Self::add_tokens).
    ///
    /// # Errors
    /// [`DecoderError::MissingFile`] or [`DecoderError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, DecoderError> {
        let tokenizer = match &*self.source {
            Source::HuggingFace(directory) => directory.tokenizer(),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.tokenizer(),
        };
        self.extended(tokenizer?)
    }

    /// Reads the chat template, in Jinja, when the checkpoint has one.
    ///
    /// # Errors
    /// A tokenizer configuration that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, DecoderError> {
        match &*self.source {
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
        match &*self.source {
            Source::HuggingFace(directory) => directory.special_tokens(&self.config),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.file.special_tokens(),
        }
    }

    /// Returns whether the projections are stored in 4 bits by bitsandbytes.
    pub fn is_bitsandbytes(&self) -> bool {
        match &*self.source {
            Source::HuggingFace(directory) => directory.is_bitsandbytes(),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => false,
        }
    }

    /// Returns whether it is a file of llama.cpp.
    pub fn is_gguf(&self) -> bool {
        match &*self.source {
            Source::HuggingFace(_) => false,
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => true,
        }
    }

    /// Opens an adapter for this model: a folder of peft or mlx-lm, a file in one, or a GGUF file as llama.cpp's `--lora` takes it.
    ///
    /// # Errors
    /// [`DecoderError::Lora`] with those of [`Adapter::open`](burn_qlora::peft::Adapter::open), and of a GGUF file for another
    /// model; a GGUF file that is damaged.
    #[cfg(feature = "qlora")]
    pub fn open_adapter(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<burn_qlora::peft::Adapter, DecoderError> {
        let path = path.as_ref();
        #[cfg(feature = "gguf")]
        if path.is_file() && files::start(path)?.starts_with(b"GGUF") {
            return gguf::read_adapter(path, &self.config, &self.gguf_definition()?);
        }
        Ok(burn_qlora::peft::Adapter::open(path)?)
    }

    /// Returns what files of llama.cpp are like for this model.
    ///
    /// # Errors
    /// None in practice: a file that is open has a known architecture.
    #[cfg(all(feature = "gguf", feature = "qlora"))]
    pub(crate) fn gguf_definition(&self) -> Result<crate::family::GgufDefinition, DecoderError> {
        match &*self.source {
            Source::HuggingFace(_) => Ok(self.config.family.definition().gguf),
            Source::Gguf(model) => model.definition(),
        }
    }

    /// Returns the model of a file of llama.cpp, `None` of a directory.
    #[cfg(all(feature = "gguf", feature = "qlora"))]
    pub(crate) fn gguf_model(&self) -> Option<&GgufModel> {
        match &*self.source {
            Source::HuggingFace(_) => None,
            Source::Gguf(model) => Some(model),
        }
    }

    /// Returns the metadata of a file of llama.cpp, `None` of a directory.
    #[cfg(all(feature = "gguf", feature = "qlora"))]
    pub(crate) fn gguf_values(
        &self,
    ) -> Option<&std::collections::HashMap<String, candle_core::quantized::gguf_file::Value>> {
        match &*self.source {
            Source::HuggingFace(_) => None,
            Source::Gguf(model) => Some(model.values()),
        }
    }

    /// Returns the block formats of llama.cpp that projections are stored in, the most frequent first; none where all are numbers,
    /// or of another kind of file.
    pub fn block_formats(&self) -> Vec<String> {
        match &*self.source {
            Source::HuggingFace(_) => Vec::new(),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.block_formats(self.config.projection_weights()),
        }
    }

    /// Returns the first projection that is stored in blocks which no kernel multiplies, by the name that its file has for it, and
    /// the type of these blocks; `None` where `read_blocks` reads all projections that are in blocks.
    pub fn unserved_blocks(&self) -> Option<(String, String)> {
        match &*self.source {
            Source::HuggingFace(_) => None,
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => {
                let mut projections = self.config.projection_weights();
                projections.find_map(|(name, _)| model.unserved_blocks(&name))
            }
        }
    }

    /// Returns a value of its config.json, or of the text model's part of it; `None` where there is none.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    #[cfg(feature = "qlora")]
    pub(crate) fn config_value(
        &self,
        key: &str,
    ) -> Result<Option<serde_json::Value>, DecoderError> {
        match &*self.source {
            Source::HuggingFace(directory) => directory.config_value(key),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(None),
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
        match &*self.source {
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
        if let (Some(stored), &[rows, width]) = (self.stored_rows(name, shape), shape) {
            let mut values = self.read_f32(name, &[stored, width])?;
            let mut mean = MeanRow::new(width);
            mean.add(&values);
            values.extend(mean.repeated(rows - stored));
            return Ok(values);
        }
        if let [rows, columns] = *shape
            && let Some(matrix) = self.read_quantized(name, [rows, columns])?
        {
            let mut values = vec![0.0; matrix.layout().elements()];
            qlora_cpu::dequantize(matrix.as_ref(), &mut values);
            return Ok(values);
        }
        match &*self.source {
            Source::HuggingFace(directory) => directory.weights().read_f32(name, shape),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.read_f32(name, shape),
        }
    }

    /// Calls `use_piece` with the values that [`read_f32`](Self::read_f32) gives, in their order, in pieces where they are stored so.
    ///
    /// # Errors
    /// Those of [`read_f32`](Self::read_f32) and of `use_piece`.
    #[cfg(feature = "qlora")]
    pub(crate) fn for_each_piece(
        &self,
        name: &str,
        shape: &[usize],
        mut use_piece: impl FnMut(&[f32]) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        if let (Some(stored), &[rows, width]) = (self.stored_rows(name, shape), shape) {
            let mut mean = MeanRow::new(width);
            let use_stored: &mut dyn FnMut(&[f32]) -> Result<(), DecoderError> = &mut |piece| {
                mean.add(piece);
                use_piece(piece)
            };
            self.for_each_piece(name, &[stored, width], use_stored)?;
            return use_piece(&mean.repeated(rows - stored));
        }
        match &*self.source {
            Source::HuggingFace(directory) if directory.is_quantized(name) => {
                use_piece(&self.read_f32(name, shape)?)
            }
            Source::HuggingFace(directory) => {
                directory.weights().for_each_piece(name, shape, use_piece)
            }
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.for_each_piece(name, shape, use_piece),
        }
    }

    /// Reads the 4-bit format of the first projection that is stored in one, which is that of all such; `None` when none
    /// is.
    ///
    /// # Errors
    /// Parts that are missing, or contradict each other.
    pub fn stored_quantization(&self) -> Result<Option<nf4::QuantConfig>, DecoderError> {
        if !self.is_bitsandbytes() {
            return Ok(None);
        }
        for (name, shape) in self.config.projection_weights() {
            if let Some(layout) = self.stored_layout(&name, shape)? {
                return Ok(layout.config());
            }
        }
        Ok(None)
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
        match &*self.source {
            Source::HuggingFace(directory) => directory.read_quantized(name, shape),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(None),
        }
    }

    /// Checks that no projection is stored in fewer than 16 bits a weight.
    ///
    /// # Errors
    /// [`DecoderError::StoredQuantized`] for the first one that is.
    pub fn check_full_precision(&self) -> Result<(), DecoderError> {
        let Some((tensor, found)) = self.quantized_projection() else {
            return Ok(());
        };
        Err(DecoderError::StoredQuantized {
            path: self.path.clone(),
            tensor,
            found,
        })
    }

    /// Returns the name and the type of the first projection that is stored in blocks that share a scale.
    fn quantized_projection(&self) -> Option<(String, String)> {
        let stored_as = |name: &str| match &*self.source {
            Source::HuggingFace(directory) => directory
                .is_quantized(name)
                .then(|| "4 bits of bitsandbytes".to_owned()),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.block_type(name),
        };
        let tensors = self.config.tensors().into_iter();
        let mut projections = tensors.filter(|spec| spec.projection);
        projections.find_map(|spec| {
            let found = stored_as(&spec.name)?;
            Some((spec.name, found))
        })
    }

    /// Reads a matrix in the blocks that the file has it in, bit for bit: 4 bits of bitsandbytes, or a block format of a GGUF
    /// file. `None` when it is stored in plain numbers.
    ///
    /// # Errors
    /// The errors of [`read_quantized`](Self::read_quantized), and [`DecoderError::TensorType`] for blocks that no kernel
    /// multiplies.
    pub fn read_blocks(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        #[cfg(feature = "gguf")]
        if let Source::Gguf(model) = &*self.source {
            return model.read_blocks(name, shape);
        }
        self.read_quantized(name, shape)
    }

    /// Returns the formats of the projections that [`read_blocks`](Self::read_blocks) reads, by their tensors' names, without reading
    /// them.
    ///
    /// # Errors
    /// Its errors, and [`DecoderError::NothingToKeep`] when there are none.
    pub fn stored_formats(&self) -> Result<BTreeMap<String, Format>, DecoderError> {
        let mut formats = BTreeMap::new();
        for (name, shape) in self.config.projection_weights() {
            if let Some(format) = self.stored_format(&name, shape)? {
                formats.insert(name, format);
            }
        }
        if formats.is_empty() {
            return Err(DecoderError::NothingToKeep {
                path: self.path.clone(),
            });
        }
        Ok(formats)
    }

    fn stored_format(&self, name: &str, shape: [usize; 2]) -> Result<Option<Format>, DecoderError> {
        #[cfg(feature = "gguf")]
        if let Source::Gguf(model) = &*self.source {
            return Ok(model.block_format(name)?.map(Format::Gguf));
        }
        let layout = self.stored_layout(name, shape)?;
        Ok(layout.map(|layout| layout.format()))
    }

    /// Returns the layout of the matrix that [`read_blocks`](Self::read_blocks) reads, without reading it.
    pub(crate) fn stored_layout(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<nf4::Layout>, DecoderError> {
        match &*self.source {
            Source::HuggingFace(directory) => directory.stored_layout(name, shape),
            #[cfg(feature = "gguf")]
            Source::Gguf(model) => model.stored_layout(name, shape),
        }
    }

    /// Returns the type to store an unquantized tensor in without loss.
    pub(crate) fn float_type(&self, name: &str) -> Result<FloatType, DecoderError> {
        match &*self.source {
            Source::HuggingFace(directory) if directory.is_quantized(name) => Ok(FloatType::F32),
            Source::HuggingFace(directory) => directory.weights().float_type(name),
            // llama.cpp's blocks decode to values that only f32 holds exactly.
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(FloatType::F32),
        }
    }

    /// Returns the files beside the weights that belong to the tokenizer and the generation defaults; `None` when the
    /// weights' own file holds all that.
    pub(crate) fn companion_files(&self) -> Option<Vec<PathBuf>> {
        match &*self.source {
            Source::HuggingFace(directory) => Some(directory.companion_files()),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => None,
        }
    }
}

/// Runs work of the tokenizers library, which panics on some damaged files; the error is a reason in words.
pub(crate) fn tokenizers_result<T>(
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, String> {
    match tensor_files::catch_panic(work) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!(
            "the tokenizers library fails on it ({panic}); the file is damaged, save the tokenizer again"
        )),
    }
}
