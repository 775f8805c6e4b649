//! `adapter_model.safetensors`.

use crate::branch::LoraBranch;
use crate::config::{LoraConfig, Targets, short_names};
use crate::error::LoraError;
use crate::model::LoraModel;
use burn::tensor::{DType, Tensor, TensorData};
use std::collections::HashMap;
use std::path::Path;
use tensor_files::{AtomicFile, Dtype, StoredTensor, TensorFile, TensorWriter};

/// Prefix that peft puts before a layer's path.
const PREFIX: &str = "base_model.model.";

fn key(path: &str, factor: char) -> String {
    format!("{PREFIX}{path}.lora_{factor}.weight")
}

/// The factors of a model's adapters by their names in the file, sorted.
pub struct Factors(Vec<(String, Tensor<2>)>);

impl Factors {
    /// Returns those of `model`. No copy is made.
    ///
    /// # Errors
    /// [`LoraError::NoAdapters`] when there is none.
    pub fn of<M: LoraModel>(model: &M) -> Result<Self, LoraError> {
        let mut factors = Vec::new();
        for (path, linear) in model.lora_linears() {
            if let Some(branch) = &linear.adapter {
                factors.push((key(&path, 'A'), branch.lora.a.val()));
                factors.push((key(&path, 'B'), branch.lora.b.val()));
            }
        }
        if factors.is_empty() {
            return Err(LoraError::NoAdapters);
        }
        factors.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self(factors))
    }

    /// Writes them as a safetensors file in f32 and returns it, to be committed. One factor at a time is copied to
    /// the host.
    ///
    /// # Errors
    /// [`LoraError::Write`]; [`LoraError::Device`] when a factor cannot be read.
    pub fn write(self, file: AtomicFile) -> Result<AtomicFile, LoraError> {
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let declared = self.0.iter().map(|(name, factor)| {
            let [rows, columns] = factor.dims();
            (name.clone(), Dtype::F32, vec![columns, rows])
        });
        let mut writer = TensorWriter::begin(file, Some(format), declared)?;
        for (name, factor) in self.0 {
            let data = to_host(&name, factor)?;
            writer.write(&name, data.as_bytes())?;
        }
        Ok(writer.finish()?)
    }
}

/// Copies a factor to the host in peft's orientation, f32, row-major.
fn to_host(name: &str, factor: Tensor<2>) -> Result<TensorData, LoraError> {
    factor
        .without_autodiff()
        .transpose()
        .cast(DType::F32)
        .try_into_data()
        .map_err(|error| LoraError::Device {
            name: name.to_owned(),
            reason: error.to_string(),
        })
}

/// Returns `targets` as they are written to the file: `all-linear` means another set of layers in every library,
/// so the names it stood for are written.
pub fn target_names<M: LoraModel>(model: &M, targets: &Targets) -> Targets {
    match targets {
        Targets::AllLinear => {
            let adapted: Vec<String> = model
                .lora_linears()
                .into_iter()
                .filter(|(_, linear)| linear.adapter.is_some())
                .map(|(path, _)| path)
                .collect();
            Targets::Names(short_names(&adapted))
        }
        other => other.clone(),
    }
}

/// Puts the factors of the file at `path` on the layers that `config` targets.
///
/// # Errors
/// As [`super::load`].
pub fn load<M: LoraModel>(
    model: &mut M,
    config: &LoraConfig,
    path: &Path,
) -> Result<(), LoraError> {
    let file = TensorFile::open(path)?;
    let another = |reason: String| LoraError::AnotherModel {
        path: path.to_owned(),
        reason,
    };

    let mut linears = model.lora_linears_mut();
    let paths: Vec<String> = linears.iter().map(|(path, _)| path.clone()).collect();
    let selected = config
        .targets
        .select(&paths)
        .map_err(|error| another(error.to_string()))?;

    // Everything is checked and made before the first layer is touched.
    let mut branches = Vec::with_capacity(linears.len());
    let mut used = 0;
    for ((name, linear), selected) in linears.iter().zip(selected) {
        if !selected {
            branches.push(None);
            continue;
        }
        let [out_features, in_features] = linear.shape();
        let factor = |factor, shape: [usize; 2]| {
            let key = key(name, factor);
            let stored = file
                .tensor(&key)
                .ok_or_else(|| another(format!("it has no tensor `{key}`")))?;
            if stored.shape() != shape {
                return Err(another(format!(
                    "tensor `{key}` has shape {:?}, but the layer needs {shape:?}",
                    stored.shape()
                )));
            }
            read_f32(&stored, path)
        };
        let a = factor('A', [config.rank, in_features])?;
        let b = factor('B', [out_features, config.rank])?;
        let branch = LoraBranch::from_peft(&a, &b, config, &linear.device())?;
        branches.push(Some(branch));
        used += 2;
    }
    if used != file.len() {
        let extra = file.names().find(|name| {
            !linears.iter().zip(&branches).any(|((path, _), branch)| {
                branch.is_some() && (*name == key(path, 'A') || *name == key(path, 'B'))
            })
        });
        return Err(another(format!(
            "its tensor `{}` fits no targeted layer",
            extra.unwrap_or_default()
        )));
    }
    for ((_, linear), branch) in linears.iter_mut().zip(branches) {
        linear.adapter = branch;
    }
    Ok(())
}

/// Reads a factor in f32; f16 and bf16 are widened.
fn read_f32(stored: &StoredTensor<'_>, path: &Path) -> Result<Vec<f32>, LoraError> {
    let dtype = match stored.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(LoraError::Malformed {
                path: path.to_owned(),
                expected: "peft weight file",
                reason: format!(
                    "tensor `{}` is {other}, not F32, F16 or BF16",
                    stored.name()
                ),
            });
        }
    };
    let data = TensorData::from_bytes_vec(stored.read()?, stored.shape(), dtype);
    Ok(data.iter::<f32>().collect())
}
