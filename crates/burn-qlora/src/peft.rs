//! Adapter directories of Hugging Face peft: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! - `config`: the JSON file, with the keys peft 0.21 writes.
//! - `weights`: the tensors, `base_model.model.<path>.lora_A.weight` `[rank, in]` and `lora_B`
//!   `[out, rank]` (both transposed from Burn's adapter).

mod config;
mod weights;

pub use config::AdapterConfig;

use crate::config::LoraConfig;
use crate::error::LoraError;
use crate::model::LoraModel;
use std::path::Path;
use tensor_files::FileGroup;
use weights::Factors;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weight file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Writes the model's adapters to `dir` as peft writes them. Both files are complete or neither is new.
///
/// `base_model` is what `base_model_name_or_path` will say.
///
/// # Errors
/// [`LoraError::NoAdapters`] when no layer has one, [`LoraError::AnotherConfig`] when `config` is not what
/// they were made with, [`LoraError::Write`] when the disk is full or the folder cannot be written,
/// [`LoraError::Device`] when a factor cannot be read.
pub fn save<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
    dir: impl AsRef<Path>,
) -> Result<(), LoraError> {
    for (layer, linear) in model.lora_linears() {
        let branch = linear.adapter.as_ref();
        if let Some((field, has, says)) = branch.and_then(|branch| branch.difference(config)) {
            return Err(LoraError::AnotherConfig {
                layer,
                field,
                has,
                says,
            });
        }
    }
    let factors = Factors::of(model)?;
    let targets = weights::target_names(model, &config.targets);
    let group = FileGroup::create(dir.as_ref())?;
    let weights = factors.write(group.file(WEIGHTS_FILE)?)?;
    let mut description = group.file(CONFIG_FILE)?;
    let json = AdapterConfig::new(config, targets, base_model).to_json();
    description.write_all(json.as_bytes())?;
    Ok(group.commit([weights, description])?)
}

/// Puts the adapters of `dir` on the model's layers; layers it does not name lose theirs.
///
/// # Errors
/// [`LoraError::Read`], [`LoraError::Malformed`] for files that are missing or broken,
/// [`LoraError::UnsupportedAdapter`] for what this crate cannot compute, and
/// [`LoraError::AnotherModel`] when a tensor is missing, left over or of another shape. The model is
/// unchanged after an error.
pub fn load<M: LoraModel>(model: &mut M, dir: impl AsRef<Path>) -> Result<LoraConfig, LoraError> {
    let dir = dir.as_ref();
    let config = AdapterConfig::read(&dir.join(CONFIG_FILE))?;
    weights::load(model, &config, &dir.join(WEIGHTS_FILE))?;
    Ok(config)
}
