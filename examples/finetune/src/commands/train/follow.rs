//! The course of a run on another rank than the first: the same steps, and nothing is written.

use anyhow::Result;
use burn_finetune::{RunOptions, RunRecord, Trainer};
use burn_qlora_llama::Decoder;

use super::ranks::check_restored;
use super::{in_flags, with_dtype};
use crate::references::Question;
use crate::training_data::TrainingData;

/// Takes the steps that the first rank takes and writes down. `question` is what that one asks the reference.
///
/// # Errors
/// A run's folder that this rank does not see, and whatever fails on the way.
pub fn follow(
    question: &Question<'_>,
    mut trainer: Trainer<Decoder>,
    data: &mut TrainingData,
) -> Result<()> {
    let ranks = trainer.ranks().clone();
    let (output, model) = (&question.run.output, &question.run.training.model);
    // The first rank has made the folder, and asked the reference, when it has said this.
    if ranks.first(false)? {
        return Ok(());
    }
    data.references = question.kept(&trainer, &data.train, data.eval.as_ref())?;
    if output.resume {
        RunRecord::read(&output.dir)?
            .restore(&mut trainer, &question.settings.lora)
            .map_err(in_flags)?;
    }
    check_restored(&trainer)?;
    let stop = || question.interrupt.requested();
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
