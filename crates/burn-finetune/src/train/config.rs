//! The numbers of a run.

use super::optimizer_kind::OptimizerKind;
use crate::data::{Dataset, Order};
use crate::error::FinetuneError;
use crate::objective::Objective;
use crate::schedule::{Schedule, ScheduleKind};
use burn_paged::{PagedAdamWConfig, StateDtype};
use serde::{Deserialize, Serialize};

/// Everything about a run that decides what it computes, besides model, adapters and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// What the run makes of its rows.
    pub objective: Objective,
    /// Optimizer steps of the whole run.
    pub steps: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub grad_accum: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Its course after the warm-up.
    pub schedule: ScheduleKind,
    /// What the learning rate falls to, where it falls.
    pub min_lr: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// Times that the learning rate falls, in a schedule with restarts.
    pub cycles: usize,
    /// Steps at the end in which it falls, in a schedule with a stable part.
    pub decay_steps: usize,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// How many times the learning rate is that of the factors B (LoRA+).
    pub lora_plus_ratio: f64,
    /// How much noise is added to the embeddings (NEFTune's alpha); 0 for none.
    pub neftune_alpha: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Largest global gradient norm; 0 for no limit.
    pub max_grad_norm: f64,
    /// Seed of the order of rows and of dropout.
    pub seed: u64,
    /// Whether the rows are shuffled anew every epoch.
    pub shuffle: bool,
    /// Whether shuffled rows of like lengths come together.
    pub group_by_length: bool,
}

impl Default for TrainConfig {
    /// Returns the recipe of the QLoRA paper for small models (Appendix B.2), over 100 steps.
    fn default() -> Self {
        Self {
            objective: Objective::Sft,
            steps: 100,
            batch_size: 4,
            grad_accum: 1,
            lr: 2e-4,
            schedule: ScheduleKind::Constant,
            min_lr: 0.0,
            warmup_steps: 0,
            cycles: 1,
            decay_steps: 0,
            optimizer: OptimizerKind::AdamW,
            lora_plus_ratio: 1.0,
            neftune_alpha: 0.0,
            weight_decay: 0.0,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 0.3,
            seed: 0,
            shuffle: true,
            group_by_length: false,
        }
    }
}

impl TrainConfig {
    /// Returns the number of rows of an optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.grad_accum)
    }

    /// Returns the rows of every step over `data`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When `data` is empty.
    pub fn order(&self, data: &Dataset) -> Result<Order, FinetuneError> {
        let shuffle = self.shuffle.then_some(self.seed);
        let order = Order::new(data.len(), self.rows_per_step(), shuffle);
        Ok(if self.group_by_length {
            order.grouped_by_length(data.lens().collect::<Result<_, _>>()?)
        } else {
            order
        })
    }

    /// Returns the most tokens that a micro-batch of a run on `data` has, padding left out.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// As [`order`](Self::order).
    pub fn most_tokens(&self, data: &Dataset) -> Result<usize, FinetuneError> {
        let lens: Vec<u32> = data.lens().collect::<Result<_, _>>()?;
        let mut order = self.order(data)?;
        let mut most = 0;
        for step in 0..self.steps {
            for rows in order.rows_of(step).chunks(self.batch_size) {
                most = most.max(rows.iter().map(|row| lens[*row] as usize).sum());
            }
        }
        Ok(most)
    }

    /// Returns the number of optimizer steps of `epochs` passes over `rows` rows.
    pub fn steps_of_epochs(&self, rows: usize, epochs: usize) -> usize {
        rows.div_ceil(self.rows_per_step().max(1))
            .saturating_mul(epochs)
    }

    /// Checks every number for itself.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] naming the first one that cannot work.
    pub fn validate(&self) -> Result<(), FinetuneError> {
        self.objective.validate()?;
        let check = |ok: bool, field, value: String, expected| {
            if ok {
                Ok(())
            } else {
                Err(FinetuneError::InvalidConfig {
                    field,
                    value,
                    expected,
                })
            }
        };
        let counts = [
            ("steps", self.steps),
            ("batch size", self.batch_size),
            ("gradient accumulation", self.grad_accum),
            ("cycles", self.cycles),
        ];
        for (field, value) in counts {
            check(value > 0, field, value.to_string(), "at least 1")?;
        }
        let rows = self.batch_size.checked_mul(self.grad_accum);
        check(
            rows.is_some(),
            "gradient accumulation",
            self.grad_accum.to_string(),
            "fewer: the rows of a step, batch size times gradient accumulation, are beyond 64 bits",
        )?;
        let not_negative = [
            ("learning rate", self.lr),
            ("minimum learning rate", self.min_lr),
            ("weight decay", self.weight_decay),
            ("epsilon", self.epsilon),
            ("maximum gradient norm", self.max_grad_norm),
            ("LoRA+ ratio", self.lora_plus_ratio),
            ("NEFTune alpha", self.neftune_alpha),
        ];
        for (field, value) in not_negative {
            check(
                value.is_finite() && value >= 0.0,
                field,
                value.to_string(),
                "a finite number, 0 or above",
            )?;
        }
        check(
            !self.objective.estimates_kl() || rows != Some(1),
            "batch size",
            self.batch_size.to_string(),
            "at least 2 with KTO: it estimates the divergence from answers that change places within a step",
        )?;
        check(
            self.min_lr <= self.lr,
            "minimum learning rate",
            self.min_lr.to_string(),
            "at most the learning rate",
        )?;
        check(
            self.shuffle || !self.group_by_length,
            "shuffle",
            self.shuffle.to_string(),
            "true, where rows are grouped by length",
        )?;
        for (field, value) in [("beta 1", self.beta_1), ("beta 2", self.beta_2)] {
            check(
                (0.0..1.0).contains(&value),
                field,
                value.to_string(),
                "in [0, 1)",
            )?;
        }
        Ok(())
    }

    /// Returns the learning-rate schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            kind: self.schedule,
            lr: self.lr,
            min_lr: self.min_lr,
            warmup_steps: self.warmup_steps,
            cycles: self.cycles,
            decay_steps: self.decay_steps,
            total_steps: self.steps,
        }
    }

    /// Returns the learning rates of A and of B where that of the schedule is `lr`.
    pub(crate) fn rates(&self, lr: f64) -> [f64; 2] {
        [lr, lr * self.lora_plus_ratio]
    }

    /// Returns AdamW's configuration, with all of its state resident.
    pub fn adamw(&self) -> PagedAdamWConfig {
        PagedAdamWConfig::new()
            .with_beta_1(self.beta_1)
            .with_beta_2(self.beta_2)
            .with_epsilon(self.epsilon)
            .with_weight_decay(self.weight_decay)
            .with_state(self.optimizer.moments().unwrap_or(StateDtype::F32))
    }
}
