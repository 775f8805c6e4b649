//! Where a run starts from.

use std::path::Path;

use anyhow::{Context, Result};
use burn_finetune::RunSource;
use burn_qlora::{LoraConfig, attach_adapters, peft};
use burn_qlora_llama::Decoder;

use crate::opened_model::{OpenedModel, open_adapter};
use crate::run::{Adapter, Training};

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

    /// Puts them on the model, and returns their configuration.
    ///
    /// # Errors
    /// Layers to adapt that the model has not.
    pub fn put_on(&self, model: &mut Decoder, seed: u64) -> Result<LoraConfig> {
        match self {
            Self::Fresh(config) => {
                attach_adapters(model, config, seed).context("--target")?;
                Ok(config.as_ref().clone())
            }
            Self::Given { adapter, .. } => Ok(adapter.attach(model)?),
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
