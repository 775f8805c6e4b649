//! llama.cpp's GGUF files.
//!
//! - `adapter`: an adapter by itself.
//! - `block_type`: the types of tensors, which of them each tensor gets, and their encoding with candle's quantizers.
//! - `file`: header, metadata and tensors as they lie in a file.
//! - `metadata`: what a file says of itself and of the tokenizer.
//! - `losses`: what it cannot say.

mod adapter;
mod block_type;
mod file;
mod losses;
mod metadata;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use burn_qlora::WeightChange;
use tensor_files::AtomicFile;

pub use self::adapter::write_gguf_adapter;
pub use self::block_type::GgufType;
use self::file::{Declared, GgufWriter};
use super::encoding::{CHUNK, check_held};
use super::merged::{MergeReport, MergedCheckpoint};
use crate::checkpoint::{FloatType, GgufFields, GgufModel, Layout, RowOrder, Stored};
use crate::error::DecoderError;
use crate::tensors::{EMBEDDING, HEAD, TensorSpec};

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
            writer.write(name, &FloatType::F32.encode(values))?;
        }
        let (said, _) = GgufModel::of_input(writer.so_far()?)?;
        let found = losses::between(config, &said);
        let mut losses = found.iter();
        if let Some(loss) = losses.find(|loss| !loss.only_of_long_texts && !options.lossy) {
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
            if let Some(change) = self.write_tensor(spec, stored, *kind)? {
                changes.insert(spec.name.clone(), change);
            }
            on_tensor(index + 1, total);
        }
        self.writer.finish()?.commit()?;
        Ok(MergeReport {
            changes,
            replaced: self.model.replaced(),
            rows: self.model.replaced_rows(),
        })
    }

    /// Writes a tensor: byte for byte where the checkpoint has it in this form already; else in pieces where its rows have their
    /// order, so that an embedding need not be in memory.
    fn write_tensor(
        &mut self,
        spec: &TensorSpec,
        stored: &Stored,
        kind: GgufType,
    ) -> Result<Option<WeightChange>, DecoderError> {
        let place = Place {
            path: self.model.checkpoint().path(),
            spec,
            stored,
            kind,
        };
        let writer = &mut self.writer;
        let number = kind.number();
        let is_copied = self
            .model
            .for_each_stored_piece(spec, number, stored, |piece| {
                place.check(piece.values)?;
                writer.write(&stored.name, piece.bytes)
            })?;
        if is_copied {
            return Ok(None);
        }
        if stored.rows != RowOrder::AsUsed {
            let tensor = self.model.read(spec)?;
            place.write(
                &mut self.writer,
                &in_order(stored, &spec.shape, &tensor.values),
            )?;
            return Ok(tensor.change);
        }
        let width = match spec.shape[..] {
            [_, width] => width,
            _ => 1,
        };
        // Whole rows are encoded; what is left of a piece waits for the next.
        let mut waiting: Vec<f32> = Vec::new();
        let (model, writer) = (self.model, &mut self.writer);
        let change = model.for_each_piece(spec, |values| {
            waiting.extend_from_slice(values);
            let whole = waiting.len() / width.max(1) * width;
            place.write(writer, &waiting[..whole])?;
            waiting.drain(..whole);
            Ok(())
        })?;
        Ok(change)
    }
}

/// A tensor and how it is stored.
struct Place<'a> {
    path: &'a Path,
    spec: &'a TensorSpec,
    stored: &'a Stored,
    kind: GgufType,
}

impl Place<'_> {
    /// Refuses values that the type cannot hold.
    fn check(&self, values: &[f32]) -> Result<(), DecoderError> {
        let holds = |value| self.kind.holds(value);
        check_held(values, holds, self.kind.name(), self.spec, self.path)
    }

    /// Encodes and writes the next whole rows.
    fn write(&self, writer: &mut GgufWriter, values: &[f32]) -> Result<(), DecoderError> {
        let width = self.spec.shape.last().copied().unwrap_or(1).max(1);
        let step = (CHUNK / width).max(1) * width;
        for values in values.chunks(step) {
            let values = shifted(values, self.stored.offset);
            self.check(&values)?;
            let bytes = self.kind.encode(&values).map_err(|reason| {
                let reason = format!(
                    "tensor `{}` in {}: {reason}",
                    self.spec.name,
                    self.kind.name()
                );
                DecoderError::malformed(self.path, reason)
            })?;
            writer.write(&self.stored.name, &bytes)?;
        }
        Ok(())
    }
}

/// Adds the offset that a file has. Where there is none, zeros keep their signs.
fn shifted(values: &[f32], offset: f32) -> Cow<'_, [f32]> {
    if offset == 0.0 {
        return Cow::Borrowed(values);
    }
    values.iter().map(|value| value + offset).collect()
}

/// Returns values of a tensor in the order of rows that a file has.
pub(super) fn in_order(stored: &Stored, shape: &[usize], values: &[f32]) -> Vec<f32> {
    let rows = shape.first().copied().unwrap_or(1).max(1);
    let width = values.len() / rows;
    let mut ordered = Vec::with_capacity(values.len());
    for row in 0..rows {
        let from = stored.rows.target(row, rows) * width;
        ordered.extend_from_slice(&values[from..from + width]);
    }
    ordered
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_offset_every_bit_stays() {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let values = [-0.0, 0.0, 1.5, -f32::MIN_POSITIVE];
        assert_eq!(bits(&shifted(&values, 0.0)), bits(&values));
        assert_eq!(*shifted(&values[2..3], 1.0), [2.5]);
    }
}
