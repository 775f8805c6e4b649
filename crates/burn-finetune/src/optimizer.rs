//! The optimizer over the adapters.
//!
//! AdamW's arithmetic and pages are [`burn_paged`]'s, the other optimizers are [`burn_optim`]'s. The states are kept by layer rather than by parameter
//! id (what `ModuleOptimizer` does), so that a checkpoint names them as the adapter file names the factors, a
//! new process finds them again, and they go from the file into pages and back one factor at a time: there
//! is never a second copy of them all.

use crate::error::FinetuneError;
use crate::train::{OptimizerKind, TrainConfig};
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use burn_optim::decay::WeightDecayConfig;
use burn_optim::momentum::MomentumConfig;
use burn_optim::{Adafactor, AdafactorConfig, Lion, LionConfig, Muon, MuonConfig};
use burn_paged::{PagedAdamWConfig, PagingReport};
use burn_qlora::LoraModel;
use paged::Paged;
use resident::Resident;
use std::path::Path;

mod file;
mod paged;
mod resident;

/// An optimizer and the states of A and B of every adapter, in the order of the model's layers, and of the rows of tokens.
pub struct AdapterOptimizer {
    rule: Rule,
}

/// The optimizer with its states.
enum Rule {
    AdamW(Paged),
    Lion(Resident<Lion>),
    Muon(Resident<Muon>),
    Adafactor(Resident<Adafactor>),
}

impl AdapterOptimizer {
    /// Makes the optimizer of `config` without state; AdamW keeps its state as `paged` says.
    ///
    /// # Errors
    /// [`FinetuneError::Paged`] naming a setting that cannot work.
    pub fn new(config: &TrainConfig, paged: &PagedAdamWConfig) -> Result<Self, FinetuneError> {
        let kind = config.optimizer;
        let decay = config.weight_decay as f32;
        let rule = match kind {
            OptimizerKind::AdamW | OptimizerKind::AdamW8bit => Rule::AdamW(Paged::new(paged)?),
            OptimizerKind::Lion => {
                let lion = LionConfig::new().with_weight_decay(decay);
                Rule::Lion(Resident::new(kind, lion.build()))
            }
            OptimizerKind::Muon => {
                let momentum = MomentumConfig {
                    momentum: 0.95,
                    dampening: 0.0,
                    nesterov: true,
                };
                let decay = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
                let muon = MuonConfig::new()
                    .with_momentum(momentum)
                    .with_weight_decay(decay);
                Rule::Muon(Resident::new(kind, muon.build()))
            }
            OptimizerKind::Adafactor => {
                let adafactor = AdafactorConfig::new()
                    .with_relative_step(false)
                    .with_scale_parameter(false)
                    .with_weight_decay(decay);
                Rule::Adafactor(Resident::new(kind, adafactor.build()))
            }
        };
        Ok(Self { rule })
    }

    /// Prepares a forward pass, before which it is called: lets the state give way if the pass needs its memory
    /// ([`burn_paged::Budget::Auto`]).
    ///
    /// # Errors
    /// [`FinetuneError::Paged`].
    pub fn prepare(&self) -> Result<(), FinetuneError> {
        match &self.rule {
            Rule::AdamW(paged) => paged.prepare(),
            Rule::Lion(_) | Rule::Muon(_) | Rule::Adafactor(_) => Ok(()),
        }
    }

    /// Updates the adapters by their `gradients`, those of A and B of every adapter in the order of the
    /// layers, at the learning rates of A and of B, and the rows of tokens behind them at that of A, as peft's
    /// `create_loraplus_optimizer` groups them. A factor without a gradient stays as it is.
    ///
    /// # Errors
    /// [`FinetuneError::Paged`] when the state cannot be paged. Some factors may have been updated then: go on
    /// from a checkpoint.
    pub fn step<M: LoraModel>(
        &mut self,
        model: &mut M,
        rates: [f64; 2],
        gradients: Vec<Option<Tensor<2>>>,
    ) -> Result<(), FinetuneError> {
        let rule = &mut self.rule;
        let mut failed = None;
        let mut slots = gradients.into_iter().enumerate();
        let mut update = |param: Param<Tensor<2>>, lr: f64| match slots.next() {
            Some((place, Some(gradient))) if failed.is_none() => param.map(|tensor| {
                let plain = tensor.clone().inner();
                match rule.update(place, lr, plain, gradient) {
                    Ok(updated) => like(updated, &tensor),
                    Err(error) => {
                        failed = Some(error);
                        tensor
                    }
                }
            }),
            _ => param,
        };
        let [of_a, of_b] = rates;
        model.update_adapters(&mut |mut branch| {
            branch.lora.a = update(branch.lora.a, of_a);
            branch.lora.b = update(branch.lora.b, of_b);
            branch
        });
        model.update_token_rows(&mut |rows| update(rows, of_a));
        if let Some(error) = failed {
            return Err(error);
        }
        match &self.rule {
            Rule::AdamW(paged) => paged.end_step(),
            Rule::Lion(_) | Rule::Muon(_) | Rule::Adafactor(_) => Ok(()),
        }
    }

    /// Returns the state's sizes, and what the last step moved.
    pub fn report(&self) -> PagingReport {
        match &self.rule {
            Rule::AdamW(paged) => paged.report(),
            Rule::Lion(resident) => resident.report(),
            Rule::Muon(resident) => resident.report(),
            Rule::Adafactor(resident) => resident.report(),
        }
    }

    /// Writes the state as a safetensors file: AdamW's keyed `<layer>.lora_A.moment_1` and so on, with `absmax_1` and
    /// `absmax_2` beside 8-bit ones, another optimizer's by the names that burn-optim gives its parts. It passes through memory
    /// one factor at a time.
    ///
    /// # Errors
    /// [`FinetuneError::Write`]; [`FinetuneError::Paged`] when moments cannot be read.
    pub fn save<M: LoraModel>(&self, model: &M, path: &Path) -> Result<(), FinetuneError> {
        let factors = factors(model);
        match &self.rule {
            Rule::AdamW(paged) => paged.save(factors, path),
            Rule::Lion(resident) => resident.save(&factors, path),
            Rule::Muon(resident) => resident.save(&factors, path),
            Rule::Adafactor(resident) => resident.save(&factors, path),
        }
    }

    /// Takes the state after `steps` steps back from the file at `path`, AdamW's straight into pages.
    ///
    /// # Errors
    /// [`FinetuneError::Read`] when it cannot be read, [`FinetuneError::Malformed`] when it is broken, does not fit the
    /// model's adapters or is of another step or optimizer; the states are what they were then. [`FinetuneError::Paged`].
    pub fn load<M: LoraModel>(
        &mut self,
        model: &M,
        path: &Path,
        steps: usize,
    ) -> Result<(), FinetuneError> {
        let factors = factors(model);
        match &mut self.rule {
            Rule::AdamW(paged) => paged.load(&factors, path, steps),
            Rule::Lion(resident) => resident.load(&factors, path, steps),
            Rule::Muon(resident) => resident.load(&factors, path, steps),
            Rule::Adafactor(resident) => resident.load(&factors, path, steps),
        }
    }
}

impl Rule {
    /// Updates the factor at `place`.
    fn update(
        &mut self,
        place: usize,
        lr: f64,
        tensor: Tensor<2>,
        gradient: Tensor<2>,
    ) -> Result<Tensor<2>, FinetuneError> {
        match self {
            Self::AdamW(paged) => paged.update(place, lr, tensor, gradient),
            Self::Lion(resident) => Ok(resident.update(place, lr, tensor, gradient)),
            Self::Muon(resident) => Ok(resident.update(place, lr, tensor, gradient)),
            Self::Adafactor(resident) => Ok(resident.update(place, lr, tensor, gradient)),
        }
    }
}

/// Returns `value` as a parameter like `old`: a leaf of the graph with the same settings.
pub(crate) fn like(value: Tensor<2>, old: &Tensor<2>) -> Tensor<2> {
    match old.gradient_checkpointing_strategy() {
        Some(strategy) => Tensor::from_inner(value)
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(old.is_require_grad()),
        None => value,
    }
}

/// One factor of an adapter, or rows of tokens.
struct Factor<'a> {
    name: String,
    /// As Burn holds it.
    shape: [usize; 2],
    device: Device,
    param: &'a Param<Tensor<2>>,
}

/// Returns every factor, in order, and the rows of tokens behind them.
fn factors<M: LoraModel>(model: &M) -> Vec<Factor<'_>> {
    let rows = model.token_rows().into_iter();
    let rows = rows.map(|(path, rows)| (format!("{path}.tokens"), &rows.rows));
    model
        .lora_adapters()
        .into_iter()
        .flat_map(|(path, branch)| {
            [('A', &branch.lora.a), ('B', &branch.lora.b)]
                .map(|(factor, param)| (format!("{path}.lora_{factor}"), param))
        })
        .chain(rows)
        .map(|(name, param)| Factor {
            name,
            shape: param.dims(),
            device: param.lazy_device().without_autodiff(),
            param,
        })
        .collect()
}
