use super::Trainer;
use crate::error::FinetuneError;
use crate::preference::{PreferencePass, PreferenceRows};
use crate::ranks::Given;
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
        let found = rows.gradients_of_rank(&self.model, places, &pass, &self.ranks)?;
        let given = Given {
            losses: Vec::new(),
            micro_batches: 0,
            gradients: found.gradients,
        };
        let taken = self.taken(start, found.tokens, found.loss, given)?;
        let report = self.update(taken)?;
        Ok(StepReport {
            preferences: found.preferences,
            ..report
        })
    }
}
