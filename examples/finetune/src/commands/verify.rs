//! `finetune verify`: the first steps of a run, taken again.

/// Losses that are compared.
mod comparison;

use std::cell::Cell;
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow};
use burn_finetune::{
    Dataset, Event, ReferenceConfig, References, RunOptions, RunRecord, Trainer, TrainerBuilder,
    memory,
};
use burn_qlora_llama::Decoder;

use super::train::{Start, settings};
use super::with_dtype;
use crate::console::{say, tell};
use crate::metrics::{Metrics, Session, SessionLine};
use crate::opened_model::OpenedModel;
use crate::origin::{self, Origin, Program};
use crate::plan::{Plan, PlannedRows};
use crate::references::reference;
use crate::report::{one_line, words};
use crate::run::{TrainRun, VerifyRun};
use crate::trained_on;
use comparison::Comparison;

/// The exit code of a run that is not the same.
const NOT_THE_SAME: u8 = 1;

/// Takes the first steps of a run again, and says whether all is the same.
///
/// # Errors
/// A run that cannot be done again: without a record of what it was made from, or with files that are missing.
pub fn run(run: &VerifyRun) -> Result<ExitCode> {
    let record = RunRecord::read(&run.run)?;
    let origin = Origin::of(&record)?;
    let metrics = Metrics::read(record.path())?.with_context(|| {
        format!(
            "{} has no record of its steps: there is no metrics.jsonl in it",
            record.path().display()
        )
    })?;
    let steps = run.steps(metrics.steps.len())?;
    let replayed = run.train_run(&origin)?;
    if let Some(told) = origin.program.difference(&Program::running()) {
        tell!("warning: {}: what it computes may differ", words(&told));
    }
    let mut replay = Replay::prepare(&record, &origin, &replayed, steps)?;
    for told in &replay.differences {
        say!("Not the same: {}", words(told));
    }
    let device = replayed.training.model.device_name;
    let sessions = metrics.sessions.iter().filter(|line| line.step < steps);
    for line in sessions.clone() {
        if let Some(told) = elsewhere(line, &metrics.sessions[0].session) {
            tell!("warning: {told}");
        }
    }
    let comparison = Comparison::of(&record, sessions.map(|line| &line.session), &replayed);
    say!("Take {steps} steps again on {device}; losses are compared {comparison}");
    let (mut differs, mut same) = (None, 0);
    replay.take_steps(&replayed, steps, &mut |step, loss, norm| {
        let Some(recorded) = metrics.steps.get(step - 1).filter(|one| one.step == step) else {
            differs = Some(format!("step {step} is not in metrics.jsonl"));
            return false;
        };
        for (what, recorded, found) in [
            ("loss", recorded.loss, loss),
            ("gradient norm", recorded.grad_norm, norm),
        ] {
            if !comparison.holds(what, recorded, found) {
                differs = Some(format!(
                    "step {step}: the {what} was {recorded:?}, and is {found:?}"
                ));
                return false;
            }
        }
        say!("step {step}: loss {}", comparison.told(recorded.loss, loss));
        same = step;
        true
    })?;
    if differs.is_none() && same < steps {
        differs = Some(format!(
            "{steps} steps are in metrics.jsonl, and by its arguments the run ends after {same}"
        ));
    }
    if let Some(told) = &differs {
        say!("Not the same: {told}");
    }
    Ok(if differs.is_none() && replay.differences.is_empty() {
        say!("The first {steps} steps are the same");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_THE_SAME)
    })
}

/// Returns where a process took its steps, if that was not where the `first` did.
fn elsewhere(line: &SessionLine, first: &Session) -> Option<String> {
    let at = |session: &Session| match (&session.device, &session.instruction_set) {
        (Some(device), Some(set)) => Some(format!("{device} with {set}")),
        (device, _) => device.clone(),
    };
    let (now, before) = (at(&line.session)?, at(first)?);
    (now != before).then(|| {
        words(&format!(
            "the steps from {} on were taken on {now}, those before on {before}: the last bits of their results may differ",
            line.step + 1
        ))
    })
}

/// Returns the error of a file that may have moved, with the flag that says where it is.
fn or_moved(error: &Error, flag: &str) -> Error {
    anyhow!("{}; if it has moved, name it with {flag}", one_line(error))
}

/// A run before its first step.
struct Replay {
    trainer: Trainer<Decoder>,
    data: Dataset,
    /// Most tokens in a row.
    max_len: usize,
    /// What is not as the run had it, a sentence each.
    differences: Vec<String>,
}

impl Replay {
    /// Reads what `run` reads and holds it against the record of it, so that `steps` steps can be taken.
    fn prepare(record: &RunRecord, origin: &Origin, run: &TrainRun, steps: usize) -> Result<Self> {
        let training = &run.training;
        let started = record.started()?.with_context(|| {
            format!(
                "{}/run.json does not say when the run was started",
                record.path().display()
            )
        })?;
        let trained = record.setting(trained_on::SETTING);
        let trained = trained.and_then(trained_on::read);
        let opened = OpenedModel::open(&training.model, trained, training.more_tokens())
            .map_err(|error| or_moved(&error, "--model"))?
            .with_now(started);
        opened.check_init(training.init)?;
        let start =
            Start::open(training, &opened).map_err(|error| or_moved(&error, "--init-adapter"))?;
        let files = origin::files(run, &opened, start.file())
            .map_err(|error| or_moved(&error, "--data"))?;
        let mut differences = origin.differences(&files);
        let data = opened.training_data(&run.data, run.eval_split, training)?;
        let mut config = training.config(data.len())?;
        // A run may have gone on for more steps than it was started for.
        if !config.schedule.depends_on_length() {
            config.steps = config.steps.max(steps);
        }
        let lora = start.lora(opened.checkpoint.config())?;
        let (planned, rows) = (opened.planned()?, PlannedRows::of(&data, &config)?);
        let plan = Plan::new(training, &planned, &lora, rows, memory::rss_bytes())?;
        let loaded = start.load(training, &opened, false, plan.workload.weights_budget)?;
        let builder = TrainerBuilder::new(loaded.model, config)?
            .with_checkpointing(training.checkpointing)?;
        let settings = settings(
            run,
            &opened,
            builder.config(),
            loaded.lora,
            &data,
            &start,
            started,
        )?;
        differences.extend(record.differences(&settings));
        for told in record.changes(&settings) {
            tell!("warning: {told}");
        }
        // Nothing is written into the run.
        let optimizer = training.optimizer.placement;
        let optimizer = optimizer.adamw(builder.config(), None);
        Ok(Self {
            trainer: builder.with_optimizer(optimizer).build()?,
            data,
            max_len: opened.encoder(training.limits)?.max_len,
            differences,
        })
    }

    /// Takes the first `steps` steps, and gives loss and gradient norm of each to `look`, which may end it.
    fn take_steps(
        &mut self,
        run: &TrainRun,
        steps: usize,
        look: &mut dyn FnMut(usize, f64, f64) -> bool,
    ) -> Result<()> {
        let references = self.references(run, steps)?;
        let done = Cell::new(false);
        let stop = || done.get();
        let options = RunOptions {
            references: references.as_ref(),
            interrupted: Some(&stop),
            ..RunOptions::default()
        };
        let outcome = self.trainer.run(&self.data, &options, &mut |event| {
            if let Event::Step(report) = event
                && !done.get()
            {
                let goes_on = look(report.step, report.loss, report.grad_norm);
                done.set(!goes_on || report.step == steps);
            }
        });
        outcome.map_err(|error| with_dtype(error.into(), run.training.model.compute_dtype))?;
        Ok(())
    }

    /// Returns what the reference gives the rows of the first `steps` steps, where the objective has one.
    fn references(&self, run: &TrainRun, steps: usize) -> Result<Option<References>> {
        let Some(config) = ReferenceConfig::of(self.trainer.config(), self.max_len) else {
            return Ok(None);
        };
        let mut order = run.training.order(&self.data)?;
        let places: Vec<usize> = (0..steps).flat_map(|step| order.rows_of(step)).collect();
        let model = reference(&self.trainer, &run.training);
        let dir = std::env::temp_dir();
        let found = References::compute_at(&model, &self.data, config, &dir, &places);
        let found =
            found.map_err(|error| with_dtype(error.into(), run.training.model.compute_dtype));
        found.map(Some)
    }
}
