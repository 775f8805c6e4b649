//! Where a run starts from.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use burn_finetune::RunSource;
use burn_paged::Budget;
use burn_qlora::{LoftqReport, LoraConfig, attach_adapters, peft};
use burn_qlora_llama::{Decoder, DecoderConfig};

use crate::flags::Init;
use crate::opened_model::{OpenedModel, open_adapter};
use crate::run::{Adapter, Training};

/// A model with the adapters that a run starts from.
pub struct Started {
    /// The model.
    pub model: Decoder,
    /// The configuration of its adapters.
    pub lora: LoraConfig,
    /// How far the weights are off in 4 bits, where the adapters were fitted to that.
    pub fitted: Option<LoftqReport>,
}

/// The adapters that a run starts from.
pub enum Start<'a> {
    /// New ones.
    Fresh(Box<LoraConfig>),
    /// Those of another run.
    Given {
        /// Their folder or file.
        path: &'a Path,
        /// What is in it.
        adapter: Box<peft::Adapter>,
    },
}

impl<'a> Start<'a> {
    /// Opens those that are given, which have to fit the model.
    ///
    /// # Errors
    /// A folder without an adapter, or one that does not fit; layers, blocks or tokens that the model has not.
    pub fn open(training: &'a Training, model: &OpenedModel) -> Result<Self> {
        Ok(match &training.adapter {
            Adapter::Fresh(config) => {
                let config = model.fresh_adapters(config, &training.tokens)?;
                Self::Fresh(Box::new(config))
            }
            Adapter::Trained(path) => Self::Given {
                path,
                adapter: Box::new(open_adapter(path, &model.checkpoint)?),
            },
        })
    }

    /// Returns their configuration on a model of these dimensions.
    ///
    /// # Errors
    /// As for an adapter that does not fit.
    pub fn lora(&self, config: &DecoderConfig) -> Result<LoraConfig> {
        Ok(match self {
            Self::Fresh(lora) => lora.as_ref().clone(),
            Self::Given { adapter, .. } => adapter.config(&config.adaptable_paths())?,
        })
    }

    /// Loads the model for training with them on it. Factors that a checkpoint has in store, of a run that `goes_on` from one,
    /// are not fitted to the weights. `weights_budget` of the packed
    /// weights stays on the device.
    ///
    /// # Errors
    /// Weights that cannot be had, and layers to adapt that the model has not.
    pub fn load(
        &self,
        training: &Training,
        opened: &OpenedModel,
        goes_on: bool,
        weights_budget: Budget,
    ) -> Result<Started> {
        let device: Device = training.model.device.clone().autodiff();
        let mut model = opened.load(&device, weights_budget)?;
        let seed = training.seed();
        let lora = match self {
            Self::Fresh(config) => {
                attach_adapters(&mut model, config, seed).context("--target")?;
                config.as_ref().clone()
            }
            Self::Given { adapter, .. } => adapter.attach(&mut model)?,
        };
        let fitted = match training.init {
            Init::Loftq if !goes_on => Some(opened.fit_adapters(&mut model, seed)?),
            Init::Loftq | Init::Zero => None,
        };
        Ok(Started {
            model,
            lora,
            fitted,
        })
    }

    /// Returns the file of the weights of those that are given.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Fresh(_) => None,
            Self::Given { adapter, .. } => Some(adapter.weights_path()),
        }
    }

    /// Returns what a run writes down of them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn source(&self) -> Result<RunSource> {
        const NAME: &str = "init-adapter";
        Ok(match self {
            Self::Fresh(_) => RunSource::none(NAME),
            Self::Given { path, adapter } => {
                RunSource::of_file(NAME, path, adapter.weights_path())?
            }
        })
    }
}
