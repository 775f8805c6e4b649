//! llama.cpp's GGUF files.
//!
//! - `block_type`: the types of tensors, which of them each tensor gets, and their encoding with candle's quantizers.
//! - `file`: header, metadata and tensors as they lie in a file.
//! - `metadata`: what a file says of itself and of the tokenizer.
//! - `losses`: what it cannot say.

mod block_type;
mod file;
mod losses;
mod metadata;

use std::collections::BTreeMap;
use std::path::Path;

use tensor_files::AtomicFile;

pub use self::block_type::GgufType;
use self::file::{Declared, GgufWriter};
use super::hf::replaced;
use super::merged::{MergeReport, MergedCheckpoint};
use crate::checkpoint::{GgufFields, GgufModel, Layout, Stored};
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec};

/// Values that are encoded and written at a time, rounded to whole rows.
const CHUNK: usize = 1 << 18;

/// Options of [`GgufExport`].
#[derive(Clone, Debug, PartialEq)]
pub struct GgufOptions {
    /// The type of matrices; some get another ([`GgufType`]).
    pub weights: GgufType,
    /// A chat template in place of the checkpoint's.
    pub chat_template: Option<String>,
    /// Whether a model is written that llama.cpp then computes otherwise. What differs is told as a warning.
    pub lossy: bool,
}

/// A GGUF file that is being written. It is there when all of it is, and not at all when writing fails.
#[derive(Debug)]
pub struct GgufExport<'a> {
    model: &'a MergedCheckpoint<'a>,
    layout: Layout,
    writer: GgufWriter,
    tensors: Vec<(TensorSpec, Stored, GgufType)>,
    warnings: Vec<String>,
}

impl<'a> GgufExport<'a> {
    /// Begins the file `output`: its header is written and read back, and what it says is held against the model.
    ///
    /// # Errors
    /// [`DecoderError::OutputExists`]; [`DecoderError::NotInGguf`] for a model that llama.cpp would compute otherwise;
    /// [`DecoderError::Tokenizer`] for a tokenizer that it cannot have; a file system that fails or is full.
    pub fn begin(
        model: &'a MergedCheckpoint<'a>,
        output: impl AsRef<Path>,
        options: &GgufOptions,
    ) -> Result<Self, DecoderError> {
        let output = output.as_ref();
        refuse_taken(output)?;
        let (checkpoint, config) = (model.checkpoint(), model.config());
        let definition = checkpoint.gguf_definition()?;
        let layout = Layout::of(config, definition.interleaved);
        let mut fields = GgufFields::new(definition.architecture);
        (definition.write)(config, &mut fields);
        let GgufFields {
            values: described,
            vectors,
            ..
        } = fields;
        let mut warnings = Vec::new();
        let metadata = metadata::of(model, &definition, described, options, &mut warnings)?;

        let tensors: Vec<_> = model
            .tensors()
            .into_iter()
            .map(|spec| {
                let stored = layout.stored(&spec.name);
                let is_head =
                    spec.name == HEAD || (spec.name == EMBEDDING && config.tie_word_embeddings);
                let kind = options.weights.of_tensor(&spec.shape, is_head);
                (spec, stored, kind)
            })
            .collect();
        let beside = vectors.iter().map(|(name, values)| Declared {
            name: (*name).into(),
            shape: vec![values.len()],
            kind: GgufType::F32,
        });
        let of_the_model = tensors.iter().map(|(spec, stored, kind)| Declared {
            name: stored.name.clone(),
            shape: spec.shape.clone(),
            kind: *kind,
        });
        let declared = beside.chain(of_the_model).collect();
        let mut writer = GgufWriter::begin(AtomicFile::create(output)?, &metadata, declared)?;
        for (name, values) in &vectors {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            writer.write(name, &bytes)?;
        }
        let (said, _) = GgufModel::of_input(writer.so_far()?)?;
        let found = losses::between(config, &said);
        if let Some(loss) = found
            .iter()
            .find(|loss| !loss.only_of_long_texts && !options.lossy)
        {
            return Err(DecoderError::NotInGguf {
                path: checkpoint.path().to_path_buf(),
                key: loss.key.clone(),
                value: loss.value.clone(),
                said: loss.said.clone(),
            });
        }
        warnings.extend(found.iter().map(ToString::to_string));
        Ok(Self {
            model,
            layout,
            writer,
            tensors,
            warnings,
        })
    }

    /// Returns what llama.cpp will do otherwise, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Writes the tensors, one in memory at a time, and gives the file its name. `on_tensor` is called after each with how many of
    /// how many are done.
    ///
    /// # Errors
    /// [`DecoderError::NotRepresentable`] for a value that the type cannot hold; what reading refuses; a file system that fails or is
    /// full.
    pub fn write(
        mut self,
        mut on_tensor: impl FnMut(usize, usize),
    ) -> Result<MergeReport, DecoderError> {
        let mut changes = BTreeMap::new();
        let total = self.tensors.len();
        for (index, (spec, stored, kind)) in std::mem::take(&mut self.tensors).iter().enumerate() {
            let tensor = self.model.read(spec)?;
            self.write_tensor(spec, stored, *kind, &tensor.values)?;
            if let Some(change) = tensor.change {
                changes.insert(spec.name.clone(), change);
            }
            on_tensor(index + 1, total);
        }
        self.writer.finish()?.commit()?;
        Ok(MergeReport {
            changes,
            replaced: replaced(self.model),
        })
    }

    fn write_tensor(
        &mut self,
        spec: &TensorSpec,
        stored: &Stored,
        kind: GgufType,
        values: &[f32],
    ) -> Result<(), DecoderError> {
        let (width, targets) = match spec.shape[..] {
            // A row of a vector is one value.
            [len] => (1, len),
            [rows, width] => (width, rows),
            _ => (values.len().max(1), 1),
        };
        let mut rows = Vec::new();
        let step = (CHUNK / width.max(1)).max(1);
        for first in (0..targets).step_by(step) {
            rows.clear();
            for row in first..targets.min(first + step) {
                let from = stored.rows.target(row, targets) * width;
                let row = &values[from..from + width];
                rows.extend(row.iter().map(|value| value + stored.offset));
            }
            if let Some(&value) = rows.iter().find(|value| !kind.holds(**value)) {
                return Err(DecoderError::NotRepresentable {
                    path: self.model.checkpoint().path().to_path_buf(),
                    tensor: spec.name.clone(),
                    value,
                    dtype: kind.name(),
                });
            }
            let bytes = kind.encode(&rows).map_err(|reason| {
                let reason = format!("tensor `{}` in {}: {reason}", spec.name, kind.name());
                DecoderError::malformed(self.model.checkpoint().path(), reason)
            })?;
            self.writer.write(&stored.name, &bytes)?;
        }
        Ok(())
    }

    /// Returns where a tensor of the model is in the file.
    pub fn name_of(&self, tensor: &str) -> String {
        self.layout.stored(tensor).name
    }
}

/// Refuses a place where something is.
pub(super) fn refuse_taken(output: &Path) -> Result<(), DecoderError> {
    match std::fs::symlink_metadata(output) {
        Ok(_) => Err(DecoderError::OutputExists {
            path: output.to_path_buf(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DecoderError::io(output)(error)),
    }
}
