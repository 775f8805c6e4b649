//! AdamW over the adapters, its state in pages.
//!
//! The arithmetic and the pages are [`burn_paged`]'s. The states are kept by layer rather than by parameter
//! id (what `ModuleOptimizer` does), so that a checkpoint names them as the adapter file names the factors, a
//! new process finds them again, and they go from the file into pages and back one factor at a time: there
//! is never a second copy of them all.

use crate::error::FinetuneError;
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use burn_paged::{PagedAdamW, PagedAdamWConfig, PagedState, PagingReport};
use burn_qlora::LoraModel;
use std::path::Path;

mod file;

/// AdamW and the states of A and B of every adapter, in the order of the model's layers.
pub struct AdapterOptimizer {
    adamw: PagedAdamW,
    states: Vec<Option<PagedState<2>>>,
}

impl AdapterOptimizer {
    /// Makes an optimizer without state.
    ///
    /// # Errors
    /// [`FinetuneError::Paged`] naming a setting that cannot work.
    pub fn new(config: &PagedAdamWConfig) -> Result<Self, FinetuneError> {
        Ok(Self {
            adamw: config.build()?,
            states: Vec::new(),
        })
    }

    /// Prepares a forward pass, before which it is called: lets the state give way if the pass needs its memory
    /// ([`burn_paged::Budget::Auto`]).
    ///
    /// # Errors
    /// [`FinetuneError::Paged`].
    pub fn prepare(&self) -> Result<(), FinetuneError> {
        Ok(self.adamw.prepare()?)
    }

    /// Updates the adapters by their `gradients`, those of A and B of every adapter in the order of the
    /// layers, at learning rate `lr`. A factor without a gradient stays as it is.
    ///
    /// # Errors
    /// [`FinetuneError::Paged`] when the state cannot be paged. Some factors may have been updated then: go on
    /// from a checkpoint.
    pub fn step<M: LoraModel>(
        &mut self,
        model: &mut M,
        lr: f64,
        gradients: Vec<Option<Tensor<2>>>,
    ) -> Result<(), FinetuneError> {
        self.states.resize_with(gradients.len(), || None);
        let adamw = &self.adamw;
        let mut failed = None;
        let mut slots = self.states.iter_mut().zip(gradients);
        let mut update = |param: Param<Tensor<2>>| match slots.next() {
            Some((state, Some(gradient))) if failed.is_none() => param.map(|tensor| {
                let plain = tensor.clone().inner();
                match adamw.try_step(lr, plain, gradient, state.take()) {
                    Ok((updated, new)) => {
                        *state = Some(new);
                        like(updated, &tensor)
                    }
                    Err(error) => {
                        failed = Some(error);
                        tensor
                    }
                }
            }),
            _ => param,
        };
        for (_, linear) in model.lora_linears_mut() {
            linear.adapter = linear.adapter.take().map(|mut branch| {
                branch.lora.a = update(branch.lora.a);
                branch.lora.b = update(branch.lora.b);
                branch
            });
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(self.adamw.end_step()?)
    }

    /// Returns the state's sizes, and what the last step moved.
    pub fn report(&self) -> PagingReport {
        self.adamw.report()
    }

    /// Writes the moments as a safetensors file, keyed `<layer>.lora_A.moment_1` and so on, with `absmax_1` and
    /// `absmax_2` beside 8-bit ones. They pass through memory one factor at a time.
    ///
    /// # Errors
    /// [`FinetuneError::Write`]; [`FinetuneError::Paged`] when moments cannot be read.
    pub fn save<M: LoraModel>(&self, model: &M, path: &Path) -> Result<(), FinetuneError> {
        let factors = factors(model);
        if let Some(factor) = factors.first() {
            self.adamw.sync(&factor.device)?;
        }
        let states: Vec<_> = factors
            .into_iter()
            .zip(&self.states)
            .filter_map(|(factor, state)| Some((factor.name, state.as_ref()?)))
            .collect();
        file::write(path, &states)
    }

    /// Takes the moments after `steps` steps back from the file at `path`, straight into pages.
    ///
    /// # Errors
    /// [`FinetuneError::Read`] when it cannot be read, [`FinetuneError::Malformed`] when it is broken, does not fit the
    /// model's adapters or is of another step; the states are what they were then. [`FinetuneError::Paged`].
    pub fn load<M: LoraModel>(
        &mut self,
        model: &M,
        path: &Path,
        steps: usize,
    ) -> Result<(), FinetuneError> {
        let factors = factors(model);
        let file = file::StateFile::open(path)?;
        // All of it is checked before any of it is taken.
        let stored = factors
            .iter()
            .map(|factor| {
                let elements = factor.shape.iter().product();
                file.find(&factor.name, factor.shape, self.adamw.state_dtype(elements))
            })
            .collect::<Result<Vec<_>, _>>()?;
        file.check_count(stored.iter().flatten())?;
        file.check_steps(stored.iter().flatten(), steps)?;
        let mut states = Vec::new();
        for (factor, stored) in factors.iter().zip(stored) {
            states.push(match stored {
                // A factor that never had a gradient has no state.
                None => None,
                Some(stored) => {
                    let (steps, moments) = file.read(&stored)?;
                    let param = factor.param.val().inner();
                    Some(self.adamw.restore(&param, steps, &moments)?)
                }
            });
        }
        self.states = states;
        Ok(())
    }
}

/// Returns `value` as a parameter like `old`: a leaf of the graph with the same settings.
fn like(value: Tensor<2>, old: &Tensor<2>) -> Tensor<2> {
    match old.gradient_checkpointing_strategy() {
        Some(strategy) => Tensor::from_inner(value)
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(old.is_require_grad()),
        None => value,
    }
}

/// One factor of an adapter.
struct Factor<'a> {
    name: String,
    /// As Burn holds it.
    shape: [usize; 2],
    device: Device,
    param: &'a Param<Tensor<2>>,
}

/// Returns every factor, in order.
fn factors<M: LoraModel>(model: &M) -> Vec<Factor<'_>> {
    model
        .lora_linears()
        .into_iter()
        .filter_map(|(path, linear)| Some((path, linear.adapter.as_ref()?)))
        .flat_map(|(path, branch)| {
            [('A', &branch.lora.a), ('B', &branch.lora.b)].map(|(factor, param)| Factor {
                name: format!("{path}.lora_{factor}"),
                shape: param.dims(),
                device: param.lazy_device().without_autodiff(),
                param,
            })
        })
        .collect()
}
