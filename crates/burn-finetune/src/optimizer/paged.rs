//! AdamW, its moments in pages.

use super::{Factor, file};
use crate::error::FinetuneError;
use burn::tensor::Tensor;
use burn_paged::{PagedAdamW, PagedAdamWConfig, PagedState, PagingReport};
use std::path::Path;

/// burn-paged's AdamW with the states of the factors, in their order.
pub(super) struct Paged {
    adamw: PagedAdamW,
    states: Vec<Option<PagedState<2>>>,
}

impl Paged {
    /// Makes it without states.
    pub fn new(config: &PagedAdamWConfig) -> Result<Self, FinetuneError> {
        Ok(Self {
            adamw: config.build()?,
            states: Vec::new(),
        })
    }

    /// Lets the state give way if a forward pass needs its memory.
    pub fn prepare(&self) -> Result<(), FinetuneError> {
        Ok(self.adamw.prepare()?)
    }

    /// Updates the factor at `place`.
    pub fn update(
        &mut self,
        place: usize,
        lr: f64,
        tensor: Tensor<2>,
        gradient: Tensor<2>,
    ) -> Result<Tensor<2>, FinetuneError> {
        if self.states.len() <= place {
            self.states.resize_with(place + 1, || None);
        }
        let state = &mut self.states[place];
        let (updated, new) = self.adamw.try_step(lr, tensor, gradient, state.take())?;
        *state = Some(new);
        Ok(updated)
    }

    /// Ends a step, after which its pages are written.
    pub fn end_step(&self) -> Result<(), FinetuneError> {
        Ok(self.adamw.end_step()?)
    }

    pub fn report(&self) -> PagingReport {
        self.adamw.report()
    }

    pub fn save(&self, factors: Vec<Factor<'_>>, path: &Path) -> Result<(), FinetuneError> {
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

    pub fn load(
        &mut self,
        factors: &[Factor<'_>],
        path: &Path,
        steps: usize,
    ) -> Result<(), FinetuneError> {
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
