//! The course of a run on another rank than the first: the same steps, and nothing is written.

use anyhow::Result;
use burn_finetune::{RunOptions, RunRecord, RunSettings, Trainer};
use burn_qlora_llama::Decoder;

use super::ranks::check_restored;
use super::{in_flags, with_dtype};
use crate::interrupt::Interrupt;
use crate::references::Question;
use crate::run::TrainRun;
use crate::training_data::TrainingData;

/// A rank that does what the first one writes down.
pub struct Follower<'a> {
    /// The run.
    pub run: &'a TrainRun,
    /// All that decides what it computes.
    pub settings: &'a RunSettings,
    /// Most tokens in a row.
    pub max_len: usize,
    /// A request to stop.
    pub interrupt: &'a Interrupt,
}

impl Follower<'_> {
    /// Takes the steps that remain.
    ///
    /// # Errors
    /// A run's folder that this rank does not see, and whatever fails on the way.
    pub fn follow(self, mut trainer: Trainer<Decoder>, data: &mut TrainingData) -> Result<()> {
        let ranks = trainer.ranks().clone();
        let (output, model) = (&self.run.output, &self.run.training.model);
        // The first rank has made the folder, and asked the reference, when it has said this.
        if ranks.first(false)? {
            return Ok(());
        }
        let question = Question {
            run: self.run,
            settings: self.settings,
            max_len: self.max_len,
            interrupt: self.interrupt,
        };
        data.references = question.kept(&trainer, &data.train, data.eval.as_ref())?;
        if output.resume {
            RunRecord::read(&output.dir)?
                .restore(&mut trainer, &self.settings.lora)
                .map_err(in_flags)?;
        }
        check_restored(&trainer)?;
        let stop = || self.interrupt.requested();
        let options = RunOptions {
            eval: data.eval.as_ref(),
            references: data.references.train.as_ref(),
            eval_references: data.references.eval.as_ref(),
            eval_every: output.eval_every,
            save_every: output.save_every,
            early_stop: output.early_stop,
            interrupted: Some(&stop),
            ..RunOptions::default()
        };
        let outcome = trainer.run(&data.train, &options, &mut |_| {});
        outcome.map_err(|error| with_dtype(error.into(), model.compute_dtype))?;
        Ok(())
    }
}
