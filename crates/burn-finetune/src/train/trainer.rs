//! One optimizer step at a time.

/// Steps on preferences.
mod preference;

use super::config::TrainConfig;
use super::reach::Reach;
use super::report::StepReport;
use crate::adapters::{check_adapter, check_finite};
use crate::data::Batch;
use crate::error::FinetuneError;
use crate::evaluate::{check_weights, read};
use crate::objective::PreferenceReport;
use crate::optimizer::AdapterOptimizer;
use crate::{clip, memory};
use burn::tensor::Tensor;
use burn_paged::WeightPages;
use burn_qlora::{BackwardPass, CausalLm, Checkpointing, LoraConfig, derive_seed, freeze_base};
use std::path::Path;
use std::time::Instant;

/// A model in training: its adapters, their moments, and the number of steps taken.
pub struct Trainer<M> {
    model: M,
    optimizer: AdapterOptimizer,
    config: TrainConfig,
    checkpointing: Checkpointing,
    step: usize,
    /// Known from the first step on, and anew when another adapter was taken.
    reach: Option<Reach>,
    peak_device_bytes: Option<u64>,
}

impl<M: CausalLm> Trainer<M> {
    /// Returns a trainer that has taken no step.
    pub(super) fn from_parts(
        model: M,
        optimizer: AdapterOptimizer,
        config: TrainConfig,
        checkpointing: Checkpointing,
    ) -> Self {
        Self {
            model: freeze_base(model.train()),
            optimizer,
            config,
            checkpointing,
            step: 0,
            reach: None,
            peak_device_bytes: None,
        }
    }

    /// Returns the model as it is now.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Returns the model, taken out of training.
    pub fn into_model(self) -> M {
        self.model.valid()
    }

    /// Returns the numbers of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Returns the most that the device's allocator had reserved after a step so far, where it tells.
    pub fn peak_device_bytes(&self) -> Option<u64> {
        self.peak_device_bytes
    }

    /// Returns the number of steps taken so far.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    /// Takes one optimizer step on the micro-batches `batches`.
    ///
    /// The loss is the sum over all target tokens of the step divided by their number, so the step does
    /// not depend on how its rows are divided among micro-batches. The gradients are clipped by their
    /// global norm, and the model's graph is gone before the optimizer runs.
    ///
    /// # Errors
    /// [`FinetuneError::NotFinite`] when loss or norm is no number and [`FinetuneError::UpdateTooLarge`] when a parameter
    /// might become none, with the parameters and the optimizer's state untouched,
    /// [`FinetuneError::Device`] when they cannot be read, and [`FinetuneError::Paged`] when a weight or the optimizer's state
    /// cannot be paged, after which only a checkpoint is of use.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport, FinetuneError> {
        let start = Instant::now();
        self.optimizer.prepare()?;
        let targets: usize = batches.iter().map(|batch| batch.target_tokens).sum();
        let tokens: usize = batches.iter().map(|batch| batch.tokens).sum();
        // Dropout draws from the device's generator, whose state cannot be saved: a seed of its own for
        // every step makes a resumed run draw what the uninterrupted one would have.
        let seed = derive_seed(self.config.seed, self.step as u64);

        let mut gradients: Vec<Option<Tensor<2>>> = Vec::new();
        let mut values: Vec<Tensor<1>> = Vec::with_capacity(batches.len());
        for (index, batch) in batches.iter().enumerate() {
            let pass = BackwardPass {
                scale: 1.0 / targets.max(1) as f64,
                seed: derive_seed(seed, index as u64),
                noise: self.config.neftune_alpha,
                checkpointing: self.checkpointing,
            };
            let found = self.model.loss_and_gradients(&batch.tensors, &pass);
            values.push(found.loss);
            add(&mut gradients, found.gradients);
        }
        self.update(Taken {
            start,
            tokens,
            loss: 0.0,
            losses: values,
            gradients,
        })
    }

    /// Ends a step: clips the gradients and changes the adapters by them.
    fn update(&mut self, taken: Taken) -> Result<StepReport, FinetuneError> {
        let Taken {
            start,
            tokens,
            loss,
            losses: mut values,
            mut gradients,
        } = taken;
        let lr = self.config.schedule().at(self.step);
        let losses = values.len();
        values.extend(clip::squared_norms(&gradients));

        // The only place where the device is waited for.
        let values = read("loss and gradient norm", Tensor::cat(values, 0))?;
        check_weights(&self.model)?;
        let (losses, squares) = values.split_at(losses);
        let loss = loss + losses.iter().sum::<f64>();
        let norm = squares.iter().sum::<f64>().sqrt();
        for (what, value) in [("loss", loss), ("gradient norm", norm)] {
            if !value.is_finite() {
                return Err(FinetuneError::NotFinite {
                    step: self.step + 1,
                    what,
                    value,
                    rows: Vec::new(),
                });
            }
        }

        let coefficient = match self.config.max_grad_norm {
            limit if limit > 0.0 => clip::coefficient(norm, limit),
            _ => 1.0,
        };
        let reach = match self.reach {
            Some(reach) => reach,
            None => Reach::of(&self.model, self.config.optimizer)?,
        };
        let reach = reach.after(&self.config, lr, norm * coefficient);
        if !reach.is_finite() {
            return Err(FinetuneError::UpdateTooLarge {
                step: self.step + 1,
                lr,
            });
        }
        self.reach = Some(reach);
        clip::scale(&mut gradients, coefficient);
        self.optimizer
            .step(&mut self.model, self.config.rates(lr), gradients)?;
        self.step += 1;
        let paging = self.optimizer.report();
        let weights = self.model.weight_pages().map(WeightPages::take_report);
        let reserved = memory::reserved_device_bytes(&self.model.device());
        self.peak_device_bytes = self.peak_device_bytes.max(reserved);
        Ok(StepReport {
            step: self.step,
            loss,
            grad_norm: norm,
            lr,
            tokens,
            tokens_per_second: tokens as f64 / start.elapsed().as_secs_f64(),
            peak_rss_bytes: memory::peak_rss_bytes(),
            peak_device_bytes: self.peak_device_bytes,
            optimizer_state_bytes: paging.state_bytes,
            optimizer_resident_bytes: paging.resident_bytes,
            optimizer_bytes_moved: paging.bytes_moved(),
            weight_bytes_moved: weights.map(|weights| weights.bytes_in),
            preferences: PreferenceReport::default(),
        })
    }

    /// Writes the optimizer's moments to a file.
    pub(crate) fn save_optimizer(&self, path: &Path) -> Result<(), FinetuneError> {
        self.optimizer.save(&self.model, path)
    }

    /// Goes on from a checkpoint of a run whose adapters are `lora`: `adapter` is a peft folder, `optimizer` the moments'
    /// file, `step` the number of steps after which they were written. Nothing is taken unless all of it is right.
    pub(crate) fn restore(
        &mut self,
        adapter: &Path,
        optimizer: &Path,
        step: usize,
        lora: &LoraConfig,
    ) -> Result<(), FinetuneError> {
        let mut model = self.model.clone();
        let found = burn_qlora::peft::load(&mut model, adapter)?;
        check_adapter(adapter, &found, lora)?;
        check_finite(&model)?;
        self.optimizer.load(&model, optimizer, step)?;
        self.model = freeze_base(model.train());
        self.step = step;
        self.reach = None;
        Ok(())
    }
}

/// What the micro-batches of a step gave.
struct Taken {
    start: Instant,
    tokens: usize,
    /// The part of the loss that the host knows.
    loss: f64,
    /// The other parts, `[1]` each.
    losses: Vec<Tensor<1>>,
    gradients: Vec<Option<Tensor<2>>>,
}

/// Adds the gradients of another micro-batch.
pub(crate) fn add(sum: &mut Vec<Option<Tensor<2>>>, more: Vec<Option<Tensor<2>>>) {
    if sum.is_empty() {
        *sum = more;
        return;
    }
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = match (sum.take(), more) {
            (Some(sum), Some(more)) => Some(sum + more),
            (one, other) => one.or(other),
        };
    }
}
