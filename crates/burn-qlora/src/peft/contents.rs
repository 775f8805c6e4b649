//! The tensors of an adapter file, by the layers they belong to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use tensor_files::{Dtype, StoredTensor, TensorFile};

use crate::config::is_named;
use crate::error::LoraError;
use crate::peft::names::Part;

/// The tensors of a weight file that nobody has taken yet. Their values are on disk.
pub(super) struct Contents<'f> {
    file: &'f TensorFile,
    parts: BTreeMap<(String, Part), StoredTensor<'f>>,
}

/// A tensor of an adapter file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'f> {
    tensor: StoredTensor<'f>,
    path: &'f Path,
}

impl<'f> Contents<'f> {
    /// Sorts the tensors of `file`, whose names `parse` takes apart.
    ///
    /// # Errors
    /// [`LoraError::AnotherModel`] for a name that is not understood, [`LoraError::Malformed`] when two names mean the same.
    pub(super) fn new(
        file: &'f TensorFile,
        parse: fn(&str) -> Option<(String, Part)>,
    ) -> Result<Self, LoraError> {
        let mut parts: BTreeMap<(String, Part), StoredTensor<'f>> = BTreeMap::new();
        for name in file.names() {
            let Some(tensor) = file.tensor(name) else {
                continue;
            };
            let Some(part) = parse(name) else {
                return Err(not_understood(name, file.path()));
            };
            if let Some(other) = parts.insert(part, tensor) {
                return Err(LoraError::Malformed {
                    path: file.path().to_owned(),
                    expected: "adapter weight file",
                    reason: format!(
                        "tensors `{}` and `{name}` are the same factor of one layer; save one adapter a file",
                        other.name()
                    ),
                });
            }
        }
        parts.retain(|(_, part), _| *part != Part::Original);
        Ok(Self { file, parts })
    }

    /// Returns the paths of the layers that have an `A`, sorted.
    pub(super) fn factored(&self) -> impl Iterator<Item = &str> {
        let factored = self.parts.keys().filter(|(_, part)| *part == Part::A);
        factored.map(|(path, _)| path.as_str())
    }

    /// Returns the paths of the layers that have anything but rows of tokens, sorted, once for each of their parts.
    pub(super) fn whole_layers(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts.keys();
        let whole = parts.filter(|(_, part)| *part != Part::TokenRows);
        whole.map(|(path, _)| path.as_str())
    }

    /// Returns where the file is.
    pub(super) fn path(&self) -> &'f Path {
        self.file.path()
    }

    /// Gives layers the paths that they have in the model, `known`, where the end of one alone is named: an adapter of the model
    /// below the head leaves out the first part.
    pub(super) fn find_layers(&mut self, known: &[String]) {
        let parts = std::mem::take(&mut self.parts);
        for ((path, part), tensor) in parts {
            let mut fitting = known.iter().filter(|known| is_named(known, &path));
            let path = match (fitting.next(), fitting.next()) {
                (Some(one), None) if !known.contains(&path) => one.clone(),
                _ => path,
            };
            self.parts.insert((path, part), tensor);
        }
    }

    /// Takes a part of the layer `path`, if it is there.
    pub(super) fn take(&mut self, path: &str, part: Part) -> Option<Stored<'f>> {
        let tensor = self.parts.remove(&(path.to_owned(), part))?;
        Some(Stored {
            tensor,
            path: self.file.path(),
        })
    }

    /// Takes a part of the layer `path`.
    ///
    /// # Errors
    /// [`LoraError::AnotherModel`] when it is not there.
    pub(super) fn need(&mut self, path: &str, part: Part) -> Result<Stored<'f>, LoraError> {
        self.take(path, part).ok_or_else(|| {
            let what = match part {
                Part::A | Part::EmbeddingA => "lora_A",
                Part::B | Part::EmbeddingB => "lora_B",
                Part::TokenRows => "trainable_tokens_delta",
                Part::Weight | Part::Original => "weight",
            };
            let reason =
                format!("it has no {what} for the layer `{path}`, which it says it adapts");
            another_model(self.file.path(), reason)
        })
    }

    /// Returns the first tensor that was not taken: its layer, its part and its name.
    pub(super) fn left(&self) -> Option<(&str, Part, &str)> {
        let ((path, part), tensor) = self.parts.first_key_value()?;
        Some((path, *part, tensor.name()))
    }
}

impl Stored<'_> {
    /// Returns its name in the file.
    pub(super) fn name(&self) -> &str {
        self.tensor.name()
    }

    /// Returns the file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.to_owned()
    }

    /// Returns its shape.
    pub(super) fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    /// Reads it in f32, row-major; f16 and bf16 are widened.
    ///
    /// # Errors
    /// [`LoraError::Malformed`] for another dtype, [`LoraError::NotFinite`], [`LoraError::File`].
    pub(super) fn read(&self) -> Result<Vec<f32>, LoraError> {
        let dtype = match self.tensor.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(LoraError::Malformed {
                    path: self.path.to_owned(),
                    expected: "adapter weight file",
                    reason: format!("tensor `{}` is {other}, not F32, F16 or BF16", self.name()),
                });
            }
        };
        let data = TensorData::from_bytes_vec(self.tensor.read()?, self.shape(), dtype);
        let values: Vec<f32> = data.iter::<f32>().collect();
        match values.iter().find(|value| !value.is_finite()) {
            Some(&value) => Err(LoraError::NotFinite {
                path: self.path.to_owned(),
                tensor: self.name().to_owned(),
                value,
            }),
            None => Ok(values),
        }
    }
}

/// Returns the error of an adapter at `path` that does not fit the model.
pub(super) fn another_model(path: &Path, reason: String) -> LoraError {
    LoraError::AnotherModel {
        path: path.to_owned(),
        reason,
    }
}

/// What the last part of a tensor's name says about the method that it belongs to.
const OTHER_METHODS: &[(&str, &str)] = &[
    ("lora_magnitude_vector", "DoRA (`use_dora`)"),
    (".m", "DoRA"),
    ("lora_B.bias", "`lora_bias`"),
    (".bias", "trained biases (`bias`)"),
    ("hada_w", "LoHa"),
    ("lokr_w", "LoKr"),
    ("ia3_l", "IA3"),
    ("vera_lambda", "VeRA"),
    ("lora_E", "AdaLoRA"),
    ("lora_diag", "KaSA (`kasa_config`)"),
    ("lora_up", "LoRA in the format of image models"),
    ("lora_down", "LoRA in the format of image models"),
];

fn not_understood(name: &str, path: &Path) -> LoraError {
    let of = OTHER_METHODS.iter().find(|(mark, _)| {
        if mark.starts_with('.') {
            name.ends_with(mark)
        } else {
            name.contains(mark)
        }
    });
    let reason = match of {
        Some((_, method)) => format!(
            "tensor `{name}` belongs to {method}, which is not supported; read are the factors lora_A and lora_B"
        ),
        None => {
            format!("tensor `{name}` is not understood; read are the factors lora_A and lora_B")
        }
    };
    LoraError::Malformed {
        path: path.to_owned(),
        expected: "adapter weight file",
        reason,
    }
}
