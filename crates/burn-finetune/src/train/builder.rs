//! [`TrainerBuilder`], the parts that a trainer is made of.

use burn_paged::PagedAdamWConfig;
use burn_qlora::{CausalLm, Checkpointing, trainable};

use super::config::TrainConfig;
use super::trainer::Trainer;
use crate::error::FinetuneError;
use crate::optimizer::AdapterOptimizer;
use crate::ranks::Ranks;

/// A model and the numbers of a run, checked, and what changes nothing of what the run computes: how much is kept for
/// the backward pass, and where the optimizer's state is. The latter may change when a run is resumed.
pub struct TrainerBuilder<M> {
    model: M,
    config: TrainConfig,
    checkpointing: Checkpointing,
    optimizer: PagedAdamWConfig,
    ranks: Ranks,
}

impl<M: CausalLm> TrainerBuilder<M> {
    /// Takes `model`, whose adapters are to be trained.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`], and [`FinetuneError::NoAdapters`] for a model without any.
    pub fn new(model: M, config: TrainConfig) -> Result<Self, FinetuneError> {
        config.validate()?;
        if trainable(&model).is_empty() {
            return Err(FinetuneError::NoAdapters);
        }
        if config.neftune_alpha > 0.0 && !M::NOISE {
            return Err(FinetuneError::InvalidConfig {
                field: "NEFTune alpha",
                value: config.neftune_alpha.to_string(),
                expected: "0: this model adds no noise to its embeddings",
            });
        }
        Ok(Self {
            model,
            optimizer: config.adamw(),
            config,
            checkpointing: Checkpointing::default(),
            ranks: Ranks::single(),
        })
    }

    /// Trades time for memory.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] when the model cannot do it.
    pub fn with_checkpointing(
        mut self,
        checkpointing: Checkpointing,
    ) -> Result<Self, FinetuneError> {
        if checkpointing == Checkpointing::Layer && !M::LAYER_CHECKPOINTING {
            return Err(FinetuneError::InvalidConfig {
                field: "checkpointing",
                value: "layer".into(),
                expected: "none: this model cannot run its blocks one by one",
            });
        }
        self.checkpointing = checkpointing;
        Ok(self)
    }

    /// Keeps AdamW's state as `optimizer` says, which is [`TrainConfig::adamw`] with a budget and a place for
    /// the page file.
    pub fn with_optimizer(mut self, optimizer: PagedAdamWConfig) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// Trains together with the other `ranks`: a step takes the rows that it takes in one process, of which each rank computes
    /// its share.
    pub fn with_ranks(mut self, ranks: Ranks) -> Self {
        self.ranks = ranks;
        self
    }

    /// Returns the numbers of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Puts the model into training, with its adapters trainable and all else frozen.
    ///
    /// # Errors
    /// [`FinetuneError::Paged`] naming a setting of the optimizer that cannot work.
    pub fn build(self) -> Result<Trainer<M>, FinetuneError> {
        let optimizer = AdapterOptimizer::new(&self.config, &self.optimizer)?;
        Ok(Trainer::from_parts(
            self.model,
            optimizer,
            self.config,
            self.checkpointing,
            self.ranks,
        ))
    }
}

impl<M: CausalLm> Trainer<M> {
    /// Puts `model` into training as [`TrainerBuilder`] does, without checkpointing and with all of the optimizer's state
    /// resident.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`], and [`FinetuneError::NoAdapters`] for a model without any.
    pub fn new(model: M, config: TrainConfig) -> Result<Self, FinetuneError> {
        TrainerBuilder::new(model, config)?.build()
    }
}
