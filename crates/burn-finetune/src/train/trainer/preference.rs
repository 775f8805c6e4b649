use super::{Taken, Trainer};
use crate::error::FinetuneError;
use crate::preference::{PreferencePass, PreferenceRows};
use crate::train::report::StepReport;
use burn_qlora::{CausalLm, derive_seed};
use std::time::Instant;

impl<M: CausalLm> Trainer<M> {
    /// Takes one optimizer step on the preferences at `places`, as [`step`](Self::step) does on texts.
    ///
    /// # Errors
    /// As for that, and as [`PreferenceRows::gradients`].
    pub(in crate::train) fn preference_step(
        &mut self,
        rows: &PreferenceRows<'_>,
        places: &[usize],
    ) -> Result<StepReport, FinetuneError> {
        let start = Instant::now();
        self.optimizer.prepare()?;
        let pass = PreferencePass {
            batch_size: self.config.batch_size,
            seed: derive_seed(self.config.seed, self.step as u64),
            noise: self.config.neftune_alpha,
            checkpointing: self.checkpointing,
        };
        let found = rows.gradients(&self.model, places, &pass)?;
        let report = self.update(Taken {
            start,
            tokens: found.tokens,
            loss: found.loss,
            losses: Vec::new(),
            gradients: found.gradients,
        })?;
        Ok(StepReport {
            preferences: found.preferences,
            ..report
        })
    }
}
