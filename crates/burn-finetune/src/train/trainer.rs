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
use crate::ranks::{Given, Ranks};
use crate::{clip, memory};
use burn::tensor::Tensor;
use burn_paged::WeightPages;
use burn_qlora::{BackwardPass, CausalLm, Checkpointing, LoraConfig, derive_seed, freeze_base};
use std::borrow::Borrow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a rank waits for the others before any step has told how long one takes: kernels are compiled in the first.
const FIRST_LIMIT: Duration = Duration::from_secs(3600);
/// How long it waits in any later step, and how many times the longest step so far beside.
const LIMIT: Duration = Duration::from_secs(60);
const LIMIT_STEPS: u32 = 10;

/// A model in training: its adapters, their moments, and the number of steps taken.
pub struct Trainer<M> {
    model: M,
    optimizer: AdapterOptimizer,
    config: TrainConfig,
    checkpointing: Checkpointing,
    ranks: Ranks,
    step: usize,
    /// Of this process, waiting for other ranks included.
    longest_step: Option<Duration>,
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
        ranks: Ranks,
    ) -> Self {
        Self {
            model: freeze_base(model.train()),
            optimizer,
            config,
            checkpointing,
            ranks,
            step: 0,
            longest_step: None,
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

    /// Returns the ranks that train together.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
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
    /// global norm, and the model's graph is gone before the optimizer runs. Where several ranks train together, all are given
    /// the same micro-batches, and each computes its share of them.
    ///
    /// # Errors
    /// [`FinetuneError::NotFinite`] when loss or norm is no number and [`FinetuneError::UpdateTooLarge`] when a parameter
    /// might become none, with the parameters and the optimizer's state untouched,
    /// [`FinetuneError::Device`] when they cannot be read, [`FinetuneError::Ranks`] when other ranks cannot be reached, and
    /// [`FinetuneError::Paged`] when a weight or the optimizer's state
    /// cannot be paged, after which only a checkpoint is of use.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport, FinetuneError> {
        let whole = Whole {
            micro_batches: batches.len(),
            targets: batches.iter().map(|batch| batch.target_tokens).sum(),
            tokens: batches.iter().map(|batch| batch.tokens).sum(),
        };
        let own = self.ranks.share(batches.len());
        let own: Vec<(usize, &Batch)> = own.map(|index| (index, &batches[index])).collect();
        self.step_on(Instant::now(), whole, own)
    }

    /// Takes one optimizer step as [`step`](Self::step) does, on this rank's `own` micro-batches of the `whole` step, with their
    /// places in it.
    pub(super) fn step_on(
        &mut self,
        start: Instant,
        whole: Whole,
        own: Vec<(usize, impl Borrow<Batch>)>,
    ) -> Result<StepReport, FinetuneError> {
        self.optimizer.prepare()?;
        // Dropout draws from the device's generator, whose state cannot be saved: a seed of its own for
        // every micro-batch of every step makes a resumed run draw what the uninterrupted one would have, on whatever rank.
        let seed = derive_seed(self.config.seed, self.step as u64);

        let mut gradients: Vec<Option<Tensor<2>>> = Vec::new();
        let mut losses: Vec<(usize, Tensor<1>)> = Vec::with_capacity(own.len());
        for (index, batch) in own {
            let pass = BackwardPass {
                scale: 1.0 / whole.targets.max(1) as f64,
                seed: derive_seed(seed, index as u64),
                noise: self.config.neftune_alpha,
                checkpointing: self.checkpointing,
            };
            let tensors = &batch.borrow().tensors;
            let found = self.model.loss_and_gradients(tensors, &pass);
            losses.push((index, found.loss));
            add(&mut gradients, found.gradients);
        }
        let given = Given {
            losses,
            micro_batches: whole.micro_batches,
            gradients,
        };
        let taken = self.taken(start, whole.tokens, 0.0, given)?;
        self.update(taken)
    }

    /// Returns what all ranks together have taken, of which `given` is this one's part. `loss` is the part of the loss that the
    /// host of every rank knows.
    fn taken(
        &self,
        start: Instant,
        tokens: usize,
        loss: f64,
        given: Given,
    ) -> Result<Taken, FinetuneError> {
        if !self.ranks.are_many() {
            return Ok(Taken {
                start,
                tokens,
                loss,
                losses: given.losses.into_iter().map(|(_, loss)| loss).collect(),
                gradients: given.gradients,
            });
        }
        let (summed, gradients) = self.ranks.summed(&self.model, given, Some(self.limit()))?;
        Ok(Taken {
            start,
            tokens,
            loss: loss + summed,
            losses: Vec::new(),
            gradients,
        })
    }

    /// Returns how long to wait for other ranks that compute a step.
    fn limit(&self) -> Duration {
        self.longest_step.map_or(FIRST_LIMIT, |longest| {
            LIMIT + longest.saturating_mul(LIMIT_STEPS)
        })
    }

    /// Gives every rank the first one's adapters, where not all compute the same bits.
    pub(super) fn begin_together(&mut self) -> Result<(), FinetuneError> {
        self.ranks.keep_together(&mut self.model, None)
    }

    /// Compares the adapters of all ranks; where those of one are others, all get the first rank's, and get them after every
    /// step from now on. Returns the first rank whose were others.
    pub(super) fn compare_ranks(&mut self) -> Result<Option<usize>, FinetuneError> {
        self.ranks.compare_adapters(&mut self.model)
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
        let limit = self.limit();
        self.ranks.keep_together(&mut self.model, Some(limit))?;
        self.step += 1;
        self.longest_step = self.longest_step.max(Some(start.elapsed()));
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

/// What a step has on all ranks together.
pub(super) struct Whole {
    /// Its micro-batches.
    pub micro_batches: usize,
    /// Tokens that are learnt.
    pub targets: usize,
    /// Tokens that are not padding.
    pub tokens: usize,
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
