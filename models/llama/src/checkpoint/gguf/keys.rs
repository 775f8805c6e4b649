//! The metadata of a model's architecture, and which of it was understood.

use std::cell::RefCell;
use std::collections::HashSet;

use candle_core::quantized::gguf_file::Value;

use super::GgufFile;
use super::layout::Layout;
use super::metadata::{Metadata, kind};
use crate::config::DecoderConfig;
use crate::error::DecoderError;
use crate::family::{Family, GgufDefinition};

/// Keys that change nothing of what a model computes: the file's type, the order in which Meta's own files had the rows,
/// whether the context was lengthened by training, the epsilon of the norms that these models do not have.
const NOTES: [&str; 4] = [
    "file_type",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "attention.layer_norm_epsilon",
];

/// Typed access to the keys `ARCHITECTURE.*`, which are given without that prefix, and to the tensors.
///
/// It remembers what it was asked for: anything else in the file is not understood.
pub(crate) struct GgufKeys<'a> {
    file: &'a GgufFile,
    definition: GgufDefinition,
    prefix: String,
    asked: RefCell<HashSet<String>>,
    read: RefCell<HashSet<String>>,
}

impl<'a> GgufKeys<'a> {
    pub(super) fn of(file: &'a GgufFile) -> Result<Self, DecoderError> {
        let metadata = file.metadata();
        refuse_what_is_no_model(file)?;
        let key = "general.architecture";
        let name = metadata.text(key)?.ok_or_else(|| metadata.missing(key))?;
        let definition = Family::of_gguf(name)
            .map_err(|known| metadata.unsupported("architecture", name, &known))?;
        Ok(Self {
            file,
            definition,
            prefix: format!("{name}."),
            asked: RefCell::default(),
            read: RefCell::default(),
        })
    }

    pub(super) fn definition(&self) -> GgufDefinition {
        self.definition
    }

    pub(super) fn file(&self) -> &'a GgufFile {
        self.file
    }

    pub(super) fn metadata(&self) -> Metadata<'a> {
        self.file.metadata()
    }

    /// Returns the whole name of a key that is now understood.
    fn ask(&self, key: &str) -> String {
        self.asked.borrow_mut().insert(key.into());
        self.name(key)
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn missing(&self, key: &str) -> DecoderError {
        self.metadata().missing(&self.name(key))
    }

    pub(crate) fn invalid(&self, key: &str, found: impl ToString, expected: &str) -> DecoderError {
        self.metadata().invalid(&self.name(key), found, expected)
    }

    pub(crate) fn unsupported(
        &self,
        what: &'static str,
        found: &str,
        expected: &str,
    ) -> DecoderError {
        self.metadata().unsupported(what, found, expected)
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        self.metadata().integer(&self.ask(key))
    }

    /// Returns a number of which zero stands for none.
    pub(crate) fn positive_integer(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        Ok(self.integer(key)?.filter(|value| *value != 0))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, DecoderError> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        self.metadata().number(&self.ask(key))
    }

    /// Returns a number of which zero stands for none.
    pub(crate) fn nonzero(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        Ok(self.number(key)?.filter(|value| *value != 0.0))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, DecoderError> {
        self.metadata().text(&self.ask(key))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, DecoderError> {
        self.metadata().flag(&self.ask(key))
    }

    /// Reads which of `layers` layers slide: those that the file lists, or all but every `period`-th, where `period` is the
    /// file's number or the one given.
    pub(crate) fn sliding_layers(
        &self,
        layers: usize,
        period: usize,
    ) -> Result<Vec<bool>, DecoderError> {
        let key = "attention.sliding_window_pattern";
        let name = self.ask(key);
        let listed = self.file.values().get(&name);
        if let Some(Value::Array(values)) = listed {
            let slides = values.iter().map(|value| match value {
                Value::Bool(slides) => Some(*slides),
                _ => None,
            });
            return slides
                .collect::<Option<Vec<_>>>()
                .filter(|slides| slides.len() == layers)
                .ok_or_else(|| {
                    let expected =
                        format!("a number, or true or false for each of {layers} layers");
                    self.invalid(key, kind(&Value::Array(values.clone())), &expected)
                });
        }
        let period = self.metadata().integer(&name)?.unwrap_or(period);
        let slides = |layer: usize| period == 0 || !(layer + 1).is_multiple_of(period);
        Ok((0..layers).map(slides).collect())
    }

    /// Returns whether there is a tensor that llama.cpp calls `name`.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// Reads a tensor that is a part of the configuration, such as factors of the rotation.
    pub(super) fn read_vector(&self, name: &str, width: usize) -> Result<Vec<f32>, DecoderError> {
        self.read.borrow_mut().insert(name.into());
        self.file.read_f32(&name.into(), &[width])
    }

    /// Refuses keys of the architecture that nothing asked for, unless their value turns off what they stand for.
    pub(super) fn check_all_understood(&self) -> Result<(), DecoderError> {
        let asked = self.asked.borrow();
        let metadata = self.metadata();
        let unknown = metadata.under(&self.prefix).filter(|(key, value)| {
            let key = &key[self.prefix.len()..];
            !asked.contains(key) && !NOTES.contains(&key) && !is_off(value)
        });
        match unknown.min_by_key(|(key, _)| *key) {
            None => Ok(()),
            Some((key, value)) => Err(self.unsupported(
                "setting",
                &format!("{key}: {}", kind(value)),
                "it would change what this kind of model computes",
            )),
        }
    }

    /// Refuses tensors that are neither the model's nor a part of the configuration.
    pub(super) fn check_all_tensors_used(
        &self,
        config: &DecoderConfig,
        layout: &Layout,
    ) -> Result<(), DecoderError> {
        // Before the model's tensors are listed.
        let count = self.file.tensors().count();
        if config.layers.len() > count {
            return Err(self.invalid(
                "block_count",
                config.layers.len(),
                &format!("at most the number of tensors, {count}"),
            ));
        }
        let read = self.read.borrow();
        let model: HashSet<String> = config
            .tensors()
            .iter()
            .map(|tensor| layout.stored(&tensor.name).name)
            .collect();
        let unused = self.file.tensors().filter(|(name, info)| {
            let empty = info.shape.contains(&0);
            !empty && !model.contains(*name) && !read.contains(*name) && !is_leftover(name)
        });
        let mut unused: Vec<_> = unused.map(|(name, _)| name).collect();
        unused.sort_unstable();
        match unused.first() {
            None => Ok(()),
            Some(first) => Err(DecoderError::UnusedTensor {
                path: self.file.path().to_path_buf(),
                tensor: first.to_string(),
                others: unused.len() - 1,
            }),
        }
    }
}

/// Refuses what llama.cpp keeps in files of the same form.
fn refuse_what_is_no_model(file: &GgufFile) -> Result<(), DecoderError> {
    let metadata = file.metadata();
    let is_for_images = metadata.text("general.architecture")? == Some("clip");
    let what = match metadata.text("general.type")? {
        Some("adapter") => {
            let base = ["repo_url", "name"]
                .iter()
                .find_map(|key| metadata.text(&format!("general.base_model.0.{key}")).ok()?);
            return Err(DecoderError::Adapter {
                path: file.path().to_path_buf(),
                base: base.map(str::to_owned),
            });
        }
        Some("mmproj") => "what turns images into embeddings",
        _ if is_for_images => "what turns images into embeddings",
        Some("imatrix") => "statistics that quantizing goes by",
        Some("vocab") => "a vocabulary alone",
        _ => return Ok(()),
    };
    let reason = format!("{what}, not a model; give the model's own GGUF file");
    Err(DecoderError::not_a_model(file.path(), reason))
}

/// Returns whether a value turns off whatever its key stands for.
fn is_off(value: &Value) -> bool {
    match value {
        Value::U8(v) => *v == 0,
        Value::I8(v) => *v == 0,
        Value::U16(v) => *v == 0,
        Value::I16(v) => *v == 0,
        Value::U32(v) => *v == 0,
        Value::I32(v) => *v == 0,
        Value::U64(v) => *v == 0,
        Value::I64(v) => *v == 0,
        Value::F32(v) => *v == 0.0,
        Value::F64(v) => *v == 0.0,
        Value::Bool(v) => !v,
        Value::String(_) => false,
        Value::Array(values) => values.iter().all(is_off),
    }
}

/// Returns whether a tensor is a table of frequencies that old converters left in, which llama.cpp computes itself.
fn is_leftover(name: &str) -> bool {
    name.starts_with("blk.") && name.ends_with(".attn_rot_embd")
}
