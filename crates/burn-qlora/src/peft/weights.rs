//! `adapter_model.safetensors`.

use crate::tensor_file::write_header;
use crate::{LoraBranch, LoraConfig, LoraError, LoraModel, Targets, config::short_names};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What peft puts before a layer's path.
const PREFIX: &str = "base_model.model.";

fn key(path: &str, factor: char) -> String {
    format!("{PREFIX}{path}.lora_{factor}.weight")
}

/// The factors of a model's adapters by their names in the file, sorted.
pub struct Factors(Vec<(String, Tensor<2>)>);

impl Factors {
    /// Those of `model`. No copy is made.
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

    /// Writes them as a safetensors file in f32. One factor at a time is copied to the host.
    ///
    /// # Errors
    /// Those of the file; when a factor cannot be read, the reason is in `unread`.
    pub fn write(self, file: &mut File, unread: &mut Option<LoraError>) -> io::Result<()> {
        let mut end = 0;
        let tensors = self.0.iter().map(|(name, factor)| {
            let [rows, columns] = factor.dims();
            let begin = end;
            end += rows * columns * size_of::<f32>();
            let info = TensorInfo {
                dtype: Dtype::F32,
                shape: vec![columns, rows],
                data_offsets: (begin, end),
            };
            (name.clone(), info)
        });
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(format), tensors.collect()).map_err(io::Error::other)?;
        write_header(file, &metadata)?;
        for (name, factor) in self.0 {
            match host(&name, factor) {
                Ok(data) => file.write_all(data.as_bytes())?,
                Err(error) => {
                    *unread = Some(error);
                    return Err(io::Error::other(format!("`{name}` cannot be read")));
                }
            }
        }
        Ok(())
    }
}

/// A factor in peft's orientation on the host, f32, row-major.
fn host(name: &str, factor: Tensor<2>) -> Result<TensorData, LoraError> {
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

/// `targets` as it shall stand in the file: `all-linear` means another set of layers in every library,
/// so it is written as the names it stood for.
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
    let bytes = std::fs::read(path).map_err(|source| LoraError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| LoraError::Malformed {
        path: path.to_owned(),
        expected: "safetensors file",
        reason: error.to_string(),
    })?;
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
            let view = file
                .tensor(&key)
                .map_err(|_| another(format!("it has no tensor `{key}`")))?;
            if view.shape() != shape {
                return Err(another(format!(
                    "tensor `{key}` has shape {:?}, but the layer needs {shape:?}",
                    view.shape()
                )));
            }
            decode(&key, &view, path)
        };
        let a = factor('A', [config.rank, in_features])?;
        let b = factor('B', [out_features, config.rank])?;
        let branch = LoraBranch::from_peft(&a, &b, config, &linear.device())?;
        branches.push(Some(branch));
        used += 2;
    }
    if used != file.len() {
        let extra = file.names().into_iter().find(|name| {
            !linears.iter().zip(&branches).any(|((path, _), branch)| {
                branch.is_some() && (**name == key(path, 'A') || **name == key(path, 'B'))
            })
        });
        return Err(another(format!(
            "its tensor `{}` fits no targeted layer",
            extra.map(|name| name.to_string()).unwrap_or_default()
        )));
    }
    for ((_, linear), branch) in linears.iter_mut().zip(branches) {
        linear.adapter = branch;
    }
    Ok(())
}

/// A stored factor in f32; f16 and bf16 are widened.
fn decode(key: &str, view: &TensorView<'_>, path: &Path) -> Result<Vec<f32>, LoraError> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(LoraError::Malformed {
                path: path.to_owned(),
                expected: "peft weight file",
                reason: format!("tensor `{key}` is {other}, not F32, F16 or BF16"),
            });
        }
    };
    let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape(), dtype);
    Ok(data.iter::<f32>().collect())
}
