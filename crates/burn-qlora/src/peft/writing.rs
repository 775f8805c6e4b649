//! The adapters of a model, written as peft writes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, ExecutionError, Tensor, TensorData};
use tensor_files::{Dtype, FileGroup, MemoryFile, Output, TensorWriter};

use crate::config::{LoraConfig, Targets, is_named, short_names};
use crate::error::LoraError;
use crate::head::AdaptableHead;
use crate::model::{LoraModel, WholeWeight};
use crate::peft::config::to_json;
use crate::peft::{AdapterFiles, CONFIG_FILE, WEIGHTS_FILE};

/// Prefix that peft puts before a layer's path.
const PREFIX: &str = "base_model.model.";

/// Writes the adapters of `model` to `dir`.
///
/// # Errors
/// As [`super::save`].
pub(super) fn save<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
    dir: &Path,
) -> Result<(), LoraError> {
    let (tensors, description) = prepared(model, config, base_model)?;
    let group = FileGroup::create(dir)?;
    let weights = tensors.write(group.file(WEIGHTS_FILE)?)?;
    let mut file = group.file(CONFIG_FILE)?;
    file.write_all(description.as_bytes())?;
    Ok(group.commit([weights, file])?)
}

/// Returns both files as they would be written.
///
/// # Errors
/// As [`super::to_files`].
pub(super) fn to_files<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
) -> Result<AdapterFiles, LoraError> {
    let (tensors, config) = prepared(model, config, base_model)?;
    let weights = tensors.write(MemoryFile::new(WEIGHTS_FILE))?.into_bytes();
    Ok(AdapterFiles { config, weights })
}

/// Returns what [`to_files`] does, without blocking.
///
/// # Errors
/// As [`super::to_files_async`].
pub(super) async fn to_files_async<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
) -> Result<AdapterFiles, LoraError> {
    let (tensors, config) = prepared(model, config, base_model)?;
    let file = MemoryFile::new(WEIGHTS_FILE);
    let weights = tensors.write_async(file).await?.into_bytes();
    Ok(AdapterFiles { config, weights })
}

/// Returns the tensors of the adapters of `model` and the text of their configuration.
fn prepared<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
) -> Result<(Tensors, String), LoraError> {
    let tensors = Tensors::of(model, config)?;
    check_rows(model, config)?;
    let linears = model.lora_linears();
    let head = model.lora_head();
    let paths: Vec<String> = linears.iter().map(|(path, _)| path.clone()).collect();
    // A pattern may fit a head that was folded into a weight of the adapter's own when it was read.
    let folded = |head: &&AdaptableHead| {
        head.adapter.is_none() && matches!(config.targets, Targets::Regex(_))
    };
    let named = head.as_ref().filter(|head| !folded(head));
    let (layers, of_head) = described(config, &paths, named.map(|head| head.path.as_str()))?;
    let carriers = linears
        .into_iter()
        .map(|(path, linear)| (path, linear.adapter.as_ref()))
        .chain(head.map(|head| (head.path, head.adapter)));
    for ((layer, adapter), described) in carriers.zip(layers.into_iter().chain([of_head])) {
        let ranks = (adapter, described.as_ref());
        let difference = match ranks {
            (Some(branch), Some(described)) => branch.difference(described),
            (Some(branch), None) => Some(("rank", branch.rank() as f64, 0.0)),
            (None, Some(described)) => Some(("rank", 0.0, described.rank as f64)),
            (None, None) => None,
        };
        if let Some((field, has, says)) = difference {
            return Err(LoraError::AnotherConfig {
                layer,
                field,
                has,
                says,
            });
        }
    }
    let written = LoraConfig {
        targets: short_targets(model, config)?,
        ..config.clone()
    };
    Ok((tensors, to_json(&written, base_model)))
}

/// Checks that the rows that are trained are those that `config` names.
fn check_rows<M: LoraModel>(model: &M, config: &LoraConfig) -> Result<(), LoraError> {
    let rows = model.token_rows();
    for WholeWeight { path, shared, .. } in model.whole_weights() {
        let has = rows.iter().find(|(known, _)| *known == path);
        let has = has.map(|(_, rows)| rows.ids()).unwrap_or_default();
        let says = config.trainable_token_indices.of_layer(&path);
        let says = says.unwrap_or_default();
        if has != says && !shared {
            let other = has.iter().zip(says).find(|(has, says)| has != says);
            let (field, has, says) = match other {
                Some((has, says)) => ("a trained row of token", f64::from(*has), f64::from(*says)),
                None => ("trained rows:", has.len() as f64, says.len() as f64),
            };
            return Err(LoraError::AnotherConfig {
                layer: path,
                field,
                has,
                says,
            });
        }
    }
    Ok(())
}

/// Returns what `config` says about each of `paths`, and about the head.
fn described(
    config: &LoraConfig,
    paths: &[String],
    head: Option<&str>,
) -> Result<(Vec<Option<LoraConfig>>, Option<LoraConfig>), LoraError> {
    match &config.targets {
        Targets::Names(names) if names.is_empty() => Ok((vec![None; paths.len()], None)),
        _ => {
            let with_head = paths.iter().cloned().chain(head.map(str::to_owned));
            let fitted = config.clone().fitted_to(&with_head.collect::<Vec<_>>())?;
            fitted.of_layers_and_head(paths, head)
        }
    }
}

/// Returns the targets of `config` as they are written to the file: `all-linear` means another set of layers in every library, so
/// the names it stood for are written, and the last parts of paths in place of many whole paths, where they mean the same.
fn short_targets<M: LoraModel>(model: &M, config: &LoraConfig) -> Result<Targets, LoraError> {
    let linears = model.lora_linears().into_iter().map(|(path, _)| path);
    let head = model.lora_head().map(|head| head.path);
    let paths: Vec<String> = linears.chain(head).collect();
    let adapters = model.lora_adapters().into_iter();
    let adapted: Vec<String> = adapters.map(|(path, _)| path).collect();
    let is_wordy = match &config.targets {
        Targets::AllLinear => true,
        Targets::Names(names) => names.iter().all(|name| paths.contains(name)),
        Targets::Regex(_) => false,
    };
    if !is_wordy || adapted.is_empty() {
        return Ok(config.targets.clone());
    }
    let short = config
        .clone()
        .with_targets(Targets::Names(short_names(&adapted)));
    let selects = short.of_layers(&paths)?.into_iter().zip(&paths);
    let selects: Vec<&String> = selects
        .filter_map(|(layer, path)| layer.map(|_| path))
        .collect();
    Ok(if selects.into_iter().eq(&adapted) {
        short.targets
    } else {
        Targets::Names(adapted)
    })
}

/// The tensors of a model's adapters by their names in the file, sorted.
struct Tensors(Vec<(String, Tensor<2>)>);

impl Tensors {
    /// Returns those of `model`. No copy is made.
    ///
    /// # Errors
    /// [`LoraError::NoAdapters`] when there is none.
    fn of<M: LoraModel>(model: &M, config: &LoraConfig) -> Result<Self, LoraError> {
        let mut tensors = Vec::new();
        for (path, branch) in model.lora_adapters() {
            let key = |factor| format!("{PREFIX}{path}.lora_{factor}.weight");
            let factor = |factor: Tensor<2>| factor.without_autodiff().transpose();
            tensors.push((key('A'), factor(branch.lora.a.val())));
            tensors.push((key('B'), factor(branch.lora.b.val())));
        }
        for WholeWeight { path, weight, .. } in model.whole_weights() {
            let saves = |name: &String| is_named(&path, name);
            if config.modules_to_save.iter().any(saves) {
                tensors.push((format!("{PREFIX}{path}.weight"), weight));
            }
        }
        for (path, rows) in model.token_rows() {
            let name = format!("{PREFIX}{path}.token_adapter.trainable_tokens_delta");
            tensors.push((name, rows.rows.val()));
        }
        if tensors.is_empty() {
            return Err(LoraError::NoAdapters);
        }
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self(tensors))
    }

    /// Writes them to `file` as safetensors in f32 and returns it. One tensor at a time is copied to the host.
    ///
    /// # Errors
    /// [`LoraError::File`]; [`LoraError::Device`] when a tensor cannot be read, [`LoraError::Diverged`] when it holds a value that
    /// is not finite.
    fn write<O: Output>(self, file: O) -> Result<O, LoraError> {
        let mut writer = Writer::begin(file, &self)?;
        for (name, tensor) in self.0 {
            writer.write(&name, as_written(tensor).try_into_data())?;
        }
        writer.finish()
    }

    /// Does what [`write`](Self::write) does without blocking.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    async fn write_async<O: Output>(self, file: O) -> Result<O, LoraError> {
        let mut writer = Writer::begin(file, &self)?;
        for (name, tensor) in self.0 {
            writer.write(&name, as_written(tensor).into_data_async().await)?;
        }
        writer.finish()
    }
}

/// The file of weights that is being written.
struct Writer<O: Output> {
    path: PathBuf,
    tensors: TensorWriter<O>,
}

impl<O: Output> Writer<O> {
    fn begin(file: O, tensors: &Tensors) -> Result<Self, LoraError> {
        let path = file.path().to_owned();
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let declared = tensors.0.iter().map(|(name, tensor)| {
            let dims = tensor.dims();
            (name.clone(), Dtype::F32, dims.to_vec())
        });
        let tensors = TensorWriter::begin(file, Some(format), declared)?;
        Ok(Self { path, tensors })
    }

    /// Writes a tensor that was read.
    fn write(
        &mut self,
        name: &str,
        read: Result<TensorData, ExecutionError>,
    ) -> Result<(), LoraError> {
        let data = read.map_err(|error| LoraError::Device {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        let values = data.as_slice::<f32>().unwrap_or_default();
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            return Err(LoraError::Diverged {
                path: self.path.clone(),
                tensor: name.to_owned(),
                value,
            });
        }
        Ok(self.tensors.write(name, data.as_bytes())?)
    }

    fn finish(self) -> Result<O, LoraError> {
        Ok(self.tensors.finish()?)
    }
}

/// Returns a tensor as it is written, f32 and no part of a graph.
fn as_written(tensor: Tensor<2>) -> Tensor<2> {
    tensor.without_autodiff().cast(DType::F32)
}
