//! Adapter directories of Hugging Face peft: `adapter_config.json` and `adapter_model.safetensors`. Those of mlx-lm are
//! read too, and others once their tensors have peft's names ([`Adapter::of_tensors`]).
//!
//! - `location`: where the files are
//! - `config`, `keys`: the JSON file, with the keys peft 0.21 writes
//! - `mlx`: that of mlx-lm
//! - `names`: `base_model.model.<path>.lora_A.weight` `[rank, in]` and `lora_B` `[out, rank]` (both transposed from Burn's
//!   adapter), and how else tensors are called
//! - `contents`: the tensors of a file by their layers
//! - `fitted`: an adapter against the layers of a model
//! - `reading`, `writing`: the adapters of a model

mod config;
mod contents;
mod fitted;
mod keys;
mod location;
mod mlx;
mod names;
mod reading;
mod writing;

pub use fitted::{AdaptableLayers, FittedAdapter, WholeLayer};

use crate::config::{LoraConfig, TokenIndices};
use crate::error::LoraError;
use crate::model::LoraModel;
use location::{Location, MLX_WEIGHTS_FILE};
use serde_json::{Map, Value};
use std::path::Path;
use tensor_files::{Checksum, TensorFile, TensorFileError};

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weight file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The files of an adapter in memory, for a program that hands them to somebody else, as one in a browser does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// The text of [`CONFIG_FILE`].
    pub config: String,
    /// The bytes of [`WEIGHTS_FILE`].
    pub weights: Vec<u8>,
}

/// An adapter on disk: its configuration is read, its weights are not.
#[derive(Debug)]
pub struct Adapter {
    config: LoraConfig,
    targets_of_the_tensors: bool,
    format: Format,
    weights: TensorFile,
    warnings: Vec<String>,
}

/// Whose files they are.
#[derive(Debug)]
enum Format {
    Peft,
    Mlx(mlx::Scope),
}

impl Adapter {
    /// Opens the adapter at `path`: a folder, or the configuration or the weight file in it.
    ///
    /// # Errors
    /// [`LoraError::File`], [`LoraError::NoAdapter`], [`LoraError::Malformed`] for files that are missing, something else or
    /// broken, [`LoraError::UnsupportedAdapter`] for what this crate cannot compute.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoraError> {
        let location = Location::find(path.as_ref())?;
        let path = location.config();
        let text = std::fs::read(&path).map_err(|source| TensorFileError::Read {
            path: path.clone(),
            source,
        })?;
        let keys: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| LoraError::Malformed {
                path: path.clone(),
                expected: "adapter configuration",
                reason: error.to_string(),
            })?;
        if keys::are_of_mlx(&keys) {
            let (config, scope) = mlx::read(&text, &path)?;
            return Ok(Self {
                config,
                targets_of_the_tensors: true,
                format: Format::Mlx(scope),
                weights: TensorFile::open(&location.weights(MLX_WEIGHTS_FILE)?)?,
                warnings: Vec::new(),
            });
        }
        let description = config::read(&text, &keys, &path)?;
        Ok(Self {
            config: description.config,
            targets_of_the_tensors: description.targets_of_the_tensors,
            format: Format::Peft,
            weights: TensorFile::open(&location.weights(WEIGHTS_FILE)?)?,
            warnings: description.warnings,
        })
    }

    /// Returns an adapter that another program's file was read into: `weights` has peft's names and orientation, `config` rank and
    /// alpha. It adapts the layers that it has tensors of.
    ///
    /// # Errors
    /// [`LoraError::Malformed`] for a rank or an alpha that cannot be.
    pub fn of_tensors(config: LoraConfig, weights: TensorFile) -> Result<Self, LoraError> {
        config.validate().map_err(|error| LoraError::Malformed {
            path: weights.path().to_owned(),
            expected: "adapter",
            reason: error.to_string(),
        })?;
        Ok(Self {
            config,
            targets_of_the_tensors: true,
            format: Format::Peft,
            weights,
            warnings: Vec::new(),
        })
    }

    /// Returns what describes it on a model whose layers that can carry adapters are `paths`.
    ///
    /// # Errors
    /// [`LoraError::UnknownTarget`], [`LoraError::InvalidPattern`], [`LoraError::Malformed`].
    pub fn config(&self, paths: &[String]) -> Result<LoraConfig, LoraError> {
        reading::config(self, paths)
    }

    /// Returns the tokens whose rows it brings.
    pub fn trainable_token_indices(&self) -> &TokenIndices {
        &self.config.trainable_token_indices
    }

    /// Returns the file that its weights are in.
    pub fn weights_path(&self) -> &Path {
        self.weights.path()
    }

    /// Returns a checksum of what decides what it computes: its configuration, the names, types and shapes of its tensors, and of
    /// each tensor 64 KiB.
    ///
    /// # Errors
    /// [`LoraError::File`] for a file that cannot be read.
    pub fn fingerprint(&self) -> Result<u64, LoraError> {
        let mut sum = Checksum::default();
        sum.add_framed(format!("{:?}", self.config).as_bytes());
        for tensor in self
            .weights
            .names()
            .filter_map(|name| self.weights.tensor(name))
        {
            tensor.sample(&mut sum)?;
        }
        Ok(sum.value())
    }

    /// Returns what a user should know about it, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Puts it on the model's layers, and returns what describes it there; layers it does not name lose theirs.
    ///
    /// What it brings of embedding and head, whole or as factors, takes the place of the model's own, so it is to be put on a model
    /// as it was loaded; the result names them in [`LoraConfig::modules_to_save`].
    ///
    /// # Errors
    /// [`LoraError::AnotherModel`] when a tensor is missing, left over or of another shape, [`LoraError::NotFinite`],
    /// [`LoraError::Malformed`], [`LoraError::File`]. The model is unchanged after an error.
    pub fn attach<M: LoraModel>(&self, model: &mut M) -> Result<LoraConfig, LoraError> {
        reading::attach(model, self)
    }
}

/// Writes the model's adapters to `dir` as peft writes them. Both files are complete or neither is new.
///
/// `base_model` is what `base_model_name_or_path` will say.
///
/// # Errors
/// [`LoraError::NoAdapters`] when no layer has one, [`LoraError::AnotherConfig`] when `config` is not what
/// they were made with, [`LoraError::Diverged`] when a value is not finite, [`LoraError::File`] when the disk is full or the
/// folder cannot be written, [`LoraError::Device`] when a tensor cannot be read.
pub fn save<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
    dir: impl AsRef<Path>,
) -> Result<(), LoraError> {
    writing::save(model, config, base_model, dir.as_ref())
}

/// Returns the files that [`save`] would write.
///
/// # Errors
/// Those of [`save`] but [`LoraError::File`].
pub fn to_files<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
) -> Result<AdapterFiles, LoraError> {
    writing::to_files(model, config, base_model)
}

/// Does what [`to_files`] does without blocking, for a browser, where WebGPU's results can only be awaited.
///
/// # Errors
/// As [`to_files`].
pub async fn to_files_async<M: LoraModel>(
    model: &M,
    config: &LoraConfig,
    base_model: &str,
) -> Result<AdapterFiles, LoraError> {
    writing::to_files_async(model, config, base_model).await
}

/// Puts the adapter at `path` on the model's layers; layers it does not name lose theirs.
///
/// # Errors
/// Those of [`Adapter::open`] and [`Adapter::attach`]. The model is unchanged after an error.
pub fn load<M: LoraModel>(model: &mut M, path: impl AsRef<Path>) -> Result<LoraConfig, LoraError> {
    Adapter::open(path)?.attach(model)
}
