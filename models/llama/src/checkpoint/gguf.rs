//! llama.cpp's GGUF files, read with candle's reader and block decoders.
//!
//! - `header`: checks that come before candle's reader sees the file.
//! - `metadata`: typed access to the metadata.
//! - `keys`: that of the model's architecture, and which of it was understood.
//! - `decoder`, `rope`: what every family's metadata says in the same words.
//! - `layout`: names, row order and offset of the stored tensors.
//! - `parts`: a file that was split, as one.
//! - `tensors`: bounds and decoding.
//! - `vocabulary`: the tokenizer's parts of the metadata.

mod decoder;
mod header;
mod keys;
mod layout;
mod metadata;
mod parts;
mod rope;
mod tensors;
mod vocabulary;

pub(crate) use self::keys::GgufKeys;

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use tensor_files::InputFile;

use self::layout::Layout;
use self::metadata::Metadata;
use crate::config::DecoderConfig;
use crate::error::DecoderError;

/// An opened GGUF file whose model is known.
#[derive(Debug)]
pub(crate) struct GgufModel {
    pub(crate) file: GgufFile,
    layout: Layout,
}

impl GgufModel {
    pub(crate) fn open(path: &Path) -> Result<(DecoderConfig, Self), DecoderError> {
        let file = GgufFile::open(path)?;
        let keys = GgufKeys::of(&file)?;
        let config = keys.read()?;
        let layout = Layout::of(&config, keys.definition().interleaved);
        keys.check_all_understood()?;
        keys.check_all_tensors_used(&config, &layout)?;
        Ok((config, Self { file, layout }))
    }

    /// Decodes the tensor that Hugging Face calls `name`, into its order of rows.
    pub(crate) fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, DecoderError> {
        self.file.read_f32(&self.layout.stored(name), shape)
    }

    /// Returns the type of the tensor that Hugging Face calls `name`, where it is one of blocks that share a scale.
    pub(crate) fn block_type(&self, name: &str) -> Option<String> {
        let (_, info) = self.file.tensor(&self.layout.stored(name).name)?;
        (info.ggml_dtype.block_size() > 1).then(|| format!("{:?}", info.ggml_dtype))
    }
}

/// An opened GGUF file, or all the parts of one that was split.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// Has the metadata.
    first: Part,
    rest: Vec<Part>,
}

/// An opened file, whose tensors lie inside it.
#[derive(Debug)]
struct Part {
    input: InputFile,
    content: Content,
}

impl GgufFile {
    /// Opens a file; if it is a part of one that was split, opens all of them.
    fn open(path: &Path) -> Result<Self, DecoderError> {
        let part = Part::open(path)?;
        match parts::place(&part)? {
            None => Ok(Self {
                first: part,
                rest: Vec::new(),
            }),
            Some(place) => parts::join(part, place),
        }
    }

    fn path(&self) -> &Path {
        self.first.path()
    }

    fn values(&self) -> &HashMap<String, Value> {
        &self.first.content.metadata
    }

    fn metadata(&self) -> Metadata<'_> {
        self.first.metadata()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Returns all tensors with their names, in no order.
    fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.parts()
            .flat_map(|part| &part.content.tensor_infos)
            .map(|(name, info)| (name.as_str(), info))
    }

    /// Returns a tensor and the part that it is in.
    fn tensor(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        let mut found = self
            .parts()
            .map(|part| Some((part, part.content.tensor_infos.get(name)?)));
        found.find_map(|found| found)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self, DecoderError> {
        let input = InputFile::open(path)?;
        let mut reader = input.reader();
        header::check(path, &mut reader, input.len())?;
        let content = Content::read(&mut input.reader()).map_err(|error| {
            DecoderError::malformed(path, format!("invalid GGUF header: {}", reason(error)))
        })?;
        let part = Self { input, content };
        part.check_tensors()?;
        Ok(part)
    }

    fn path(&self) -> &Path {
        self.input.path()
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata::new(self.path(), &self.content.metadata)
    }
}

/// Returns what an error of candle says, less the backtrace that it takes where the environment asks for one: to write that
/// out costs a second and as much memory as the program's symbols take.
fn reason(error: candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => reason(*inner),
        error => error.to_string(),
    }
}
