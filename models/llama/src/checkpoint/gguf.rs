//! llama.cpp's GGUF files, read with candle's reader and block decoders.
//!
//! - `header`: checks that come before candle's reader sees the file, and the table of the tensors.
//! - `tensor_type`: the types of tensors, and who decodes them.
//! - `metadata`: typed access to the metadata.
//! - `keys`: that of the model's architecture, and which of it was understood.
//! - `decoder`, `rope`: what every family's metadata says in the same words.
//! - `fields`: the same in the other direction, from a configuration to metadata.
//! - `adapter`: adapters in the same form (feature `qlora`).
//! - `layout`: names, row order and offset of the stored tensors.
//! - `parts`: a file that was split, as one.
//! - `tensors`: bounds and decoding.
//! - `blocks`: tensors in the blocks of the file.
//! - `vocabulary`: the tokenizer's parts of the metadata.

#[cfg(feature = "qlora")]
mod adapter;
mod blocks;
mod decoder;
mod fields;
mod header;
mod keys;
mod layout;
mod metadata;
mod parts;
mod rope;
mod tensor_type;
mod tensors;
mod vocabulary;

#[cfg(feature = "qlora")]
pub(crate) use self::adapter::read as read_adapter;
pub(crate) use self::fields::GgufFields;
pub(crate) use self::keys::GgufKeys;
pub(crate) use self::layout::{Layout, RowOrder, Stored};
#[cfg(feature = "qlora")]
pub(crate) use self::tensors::Piece;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use nf4::{GgufFormat, QuantizedMatrix};
use tensor_files::InputFile;

use self::header::{Table, TensorInfo};
use self::metadata::Metadata;
use crate::config::DecoderConfig;
use crate::error::DecoderError;
#[cfg(feature = "qlora")]
use crate::family::GgufDefinition;

/// An opened GGUF file whose model is known.
#[derive(Debug)]
pub(crate) struct GgufModel {
    pub(crate) file: GgufFile,
    layout: Layout,
}

impl GgufModel {
    pub(crate) fn open(path: &Path) -> Result<(DecoderConfig, Self), DecoderError> {
        Self::of(GgufFile::open(path)?)
    }

    /// Reads a file that is open, and no part of another.
    pub(crate) fn of_input(input: InputFile) -> Result<(DecoderConfig, Self), DecoderError> {
        let first = Part::of(input)?;
        if let Some(place) = parts::place(&first)? {
            let reason = format!(
                "part {} of {} of a split GGUF file, alone; join them with llama-gguf-split --merge",
                place.number, place.count
            );
            return Err(DecoderError::not_a_model(first.path(), reason));
        }
        Self::of(GgufFile {
            first,
            rest: Vec::new(),
        })
    }

    fn of(file: GgufFile) -> Result<(DecoderConfig, Self), DecoderError> {
        let keys = GgufKeys::of(&file)?;
        let config = keys.read()?;
        let layout = Layout::of(&config, keys.definition().interleaved);
        keys.check_all_understood()?;
        keys.check_all_tensors_used(&config, &layout)?;
        Ok((config, Self { file, layout }))
    }

    /// Returns what the files of its architecture are like.
    #[cfg(feature = "qlora")]
    pub(crate) fn definition(&self) -> Result<GgufDefinition, DecoderError> {
        Ok(GgufKeys::of(&self.file)?.definition())
    }

    /// Returns the metadata.
    #[cfg(feature = "qlora")]
    pub(crate) fn values(&self) -> &HashMap<String, Value> {
        self.file.values()
    }

    /// Returns the block formats of these of the tensors, by the names Hugging Face gives them, the most frequent first.
    pub(crate) fn block_formats(
        &self,
        tensors: impl Iterator<Item = (String, [usize; 2])>,
    ) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (name, _) in tensors {
            let found = self.file.tensor(&self.layout.stored(&name).name);
            if let Some((_, info)) = found.filter(|(_, info)| info.kind.is_blocks()) {
                *counts.entry(info.kind.to_string()).or_default() += 1;
            }
        }
        let mut formats: Vec<_> = counts.into_iter().collect();
        formats.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        formats.into_iter().map(|(name, _)| name).collect()
    }

    /// Decodes the tensor that Hugging Face calls `name`, into its order of rows.
    pub(crate) fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, DecoderError> {
        self.file.read_f32(&self.layout.stored(name), shape)
    }

    /// Returns the type of the tensor that Hugging Face calls `name`, where it is one of blocks that share a scale.
    pub(crate) fn block_type(&self, name: &str) -> Option<String> {
        let (_, info) = self.file.tensor(&self.layout.stored(name).name)?;
        info.kind.is_blocks().then(|| info.kind.to_string())
    }

    /// Returns the name that the file has for the tensor that Hugging Face calls `name`, and its type, where that is one of blocks
    /// that no kernel multiplies.
    pub(crate) fn unserved_blocks(&self, name: &str) -> Option<(String, String)> {
        let stored = self.layout.stored(name).name;
        let (_, info) = self.file.tensor(&stored)?;
        let is_unserved = info.kind.is_blocks() && info.kind.format().is_none();
        is_unserved.then(|| (stored, info.kind.to_string()))
    }

    /// Reads the tensor that Hugging Face calls `name` in its blocks, into its order of rows; `None` of plain numbers.
    pub(crate) fn read_blocks(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        self.file.read_blocks(&self.layout.stored(name), shape)
    }

    /// Returns the block format of that tensor, `None` of plain numbers.
    pub(crate) fn block_format(&self, name: &str) -> Result<Option<GgufFormat>, DecoderError> {
        self.file.block_format(&self.layout.stored(name).name)
    }

    /// Returns the layout of that matrix without reading it, `None` of plain numbers.
    pub(crate) fn stored_layout(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<nf4::Layout>, DecoderError> {
        self.file.layout(&self.layout.stored(name), shape)
    }
}

#[cfg(feature = "qlora")]
impl GgufModel {
    /// Calls `use_piece` with the values of the tensor that Hugging Face calls `name`, a few rows at a time where its rows are stored
    /// in the order in which they are used.
    pub(crate) fn for_each_piece(
        &self,
        name: &str,
        shape: &[usize],
        mut use_piece: impl FnMut(&[f32]) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        let stored = self.layout.stored(name);
        if stored == Stored::from(stored.name.as_str()) {
            let use_values = |piece: Piece<'_>| use_piece(piece.values);
            self.file.for_each_piece(&stored, shape, use_values)
        } else {
            use_piece(&self.file.read_f32(&stored, shape)?)
        }
    }

    /// Calls `use_piece` with the tensor that Hugging Face calls `name` as the file has it, bytes and values, a few rows at a time.
    pub(crate) fn for_each_stored_piece(
        &self,
        name: &str,
        shape: &[usize],
        use_piece: impl FnMut(Piece<'_>) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        self.file
            .for_each_piece(&self.layout.stored(name), shape, use_piece)
    }

    /// Returns ggml's number of the type of that tensor, and how it is stored.
    pub(crate) fn stored_as(&self, name: &str) -> Option<(u32, Stored)> {
        let stored = self.layout.stored(name);
        let (_, info) = self.file.tensor(&stored.name)?;
        Some((info.kind.number()?, stored))
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
    values: HashMap<String, Value>,
    table: Table,
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

    /// Returns the file, or all parts of one that was split.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let parts = std::iter::once(&self.first).chain(&self.rest);
        parts.map(|part| part.path().to_owned()).collect()
    }

    fn values(&self) -> &HashMap<String, Value> {
        &self.first.values
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
            .flat_map(|part| &part.table.tensors)
            .map(|(name, info)| (name.as_str(), info))
    }

    /// Returns a tensor and the part that it is in.
    fn tensor(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        let mut found = self
            .parts()
            .map(|part| Some((part, part.table.tensors.get(name)?)));
        found.find_map(|found| found)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self, DecoderError> {
        Self::of(InputFile::open(path)?)
    }

    fn of(input: InputFile) -> Result<Self, DecoderError> {
        let path = input.path();
        let mut reader = input.reader();
        let table = header::read(path, &mut reader, input.len())?;
        let content = Content::read(&mut table.hidden_in(input.reader())).map_err(|error| {
            DecoderError::malformed(path, format!("invalid GGUF header: {}", reason(error)))
        })?;
        let part = Self {
            input,
            values: content.metadata,
            table,
        };
        part.check_tensors()?;
        Ok(part)
    }

    fn path(&self) -> &Path {
        self.input.path()
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata::new(self.path(), &self.values)
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
