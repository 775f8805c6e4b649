//! The checkpoints of a run while it goes.

use crate::error::FinetuneError;
use crate::run_dir::RunDir;
use crate::train::report::Event;
use crate::train::trainer::Trainer;
use burn_qlora::CausalLm;

/// Saves each step at most once, and removes the checkpoints that need not stay.
pub(super) struct Saves<'a> {
    run_dir: Option<&'a RunDir>,
    /// Checkpoints that stay, the last ones; `None` for all.
    kept: Option<usize>,
    /// The last step that is saved, at first the one that the run begins at.
    saved: usize,
}

impl<'a> Saves<'a> {
    pub(super) fn new(run_dir: Option<&'a RunDir>, kept: Option<usize>, steps_done: usize) -> Self {
        Self {
            run_dir,
            kept,
            saved: steps_done,
        }
    }

    /// Saves the step that is done; the checkpoint of the step `best` stays beside the last ones.
    pub(super) fn save<M: CausalLm>(
        &mut self,
        trainer: &Trainer<M>,
        best: Option<usize>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), FinetuneError> {
        let step = trainer.steps_done();
        if let Some(run_dir) = self.run_dir
            && self.saved != step
        {
            let path = run_dir.save(trainer)?;
            self.remove_others(best)?;
            self.saved = step;
            on_event(Event::Saved { step, path: &path });
        }
        Ok(())
    }

    /// Removes the checkpoints that need not stay beside that of the step `best`.
    pub(super) fn remove_others(&self, best: Option<usize>) -> Result<(), FinetuneError> {
        match (self.run_dir, self.kept) {
            (Some(run_dir), Some(kept)) => run_dir.keep_checkpoints(kept, best),
            _ => Ok(()),
        }
    }
}
