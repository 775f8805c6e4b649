//! The course of a run: steps, and what is shown, recorded and saved between them.

use std::cell::RefCell;
use std::ops::ControlFlow;

use anyhow::Result;
use burn_finetune::{EvalResult, Evaluation, Event, Outcome, RunDir, RunOptions, Trainer};
use burn_qlora_llama::Decoder;

use crate::console::{say, tell};
use crate::interrupt::Interrupt;
use crate::metrics::Session;
use crate::page;
use crate::progress::{self, TrainDisplay, human_bytes};
use crate::recorder::Recorder;
use crate::report::{one_line, words};
use crate::run::Output;
use crate::samples::{SampleReport, Samples};
use crate::shell::resume_command;
use crate::training_data::TrainingData;

/// The course of a run.
pub struct Course<'a> {
    /// What the user asked for.
    pub output: &'a Output,
    /// The rows.
    pub data: &'a TrainingData,
    /// The prompts that the model answers meanwhile, if any.
    pub samples: Option<&'a Samples<'a>>,
    /// The run's folder.
    pub run_dir: &'a RunDir,
    /// Asked after every step whether to stop.
    pub interrupt: &'a Interrupt,
    /// What is recorded of this process.
    pub session: Session,
}

impl Course<'_> {
    /// Takes the steps that remain after `done`, and saves the adapter after the last one.
    ///
    /// # Errors
    /// A device, a disk or a number that fails on the way; the checkpoints before it are kept.
    pub fn take_steps(self, trainer: &mut Trainer<Decoder>, done: usize) -> Result<()> {
        let Self {
            output,
            data,
            samples,
            run_dir,
            interrupt,
            session,
        } = self;
        let is_evaluated = match &data.eval {
            Some(rows) => run_dir.evaluations(rows, done)?.has(done),
            None => true,
        };
        let recorder = Recorder::open(output, run_dir, session, done, is_evaluated)?;
        let recorder = RefCell::new(recorder);
        let steps = trainer.config().steps;
        let display = RefCell::new(TrainDisplay::new(steps, done));
        // What cannot be recorded stops the run as Ctrl-C does, so that what was learnt is saved.
        let failed = RefCell::new(None);
        let keep = |result: Result<()>| {
            if let Err(error) = result {
                failed.borrow_mut().get_or_insert(error);
            }
        };
        let stop = || interrupt.requested() || failed.borrow().is_some();
        let look = |model: &Decoder, step: usize| {
            let Some(samples) = samples.filter(|_| !recorder.borrow().has_samples(step)) else {
                return ControlFlow::Continue(());
            };
            match samples.write(model, step, &stop) {
                Ok(Some(report)) => {
                    display.borrow().say(&told(&report));
                    keep(recorder.borrow_mut().samples(&report));
                }
                Ok(None) => {
                    display.borrow().say(&format!(
                        "step {step}: stopped before its samples were written"
                    ));
                    return ControlFlow::Break(());
                }
                Err(error) => keep(Err(error.context(format!(
                    "--sample-prompts, after step {step}; without it the run goes on"
                )))),
            }
            if failed.borrow().is_some() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let options = RunOptions {
            eval: data.eval.as_ref(),
            references: data.references.train.as_ref(),
            eval_references: data.references.eval.as_ref(),
            eval_every: output.eval_every,
            run_dir: Some(run_dir),
            save_every: output.save_every,
            kept_checkpoints: output.save_total,
            keep_best: output.keep_best,
            early_stop: output.early_stop,
            look: Some(&look),
            interrupted: Some(&stop),
        };
        let outcome = trainer.run(&data.train, &options, &mut |event| match event {
            Event::Step(report) => {
                display.borrow_mut().step(report);
                keep(recorder.borrow_mut().step(report));
            }
            Event::Evaluated(evaluation) => {
                display.borrow().say(&evaluated(evaluation));
                keep(recorder.borrow_mut().evaluation(evaluation));
            }
            Event::EvaluationLeftOut { step } if step < steps => display.borrow().say(&format!(
                "step {step}: stopped before its evaluation was done; --resume makes it first"
            )),
            Event::AdaptersDiffer { step, rank } => display.borrow().say(&format!(
                "warning: step {step}: rank {rank} had come to other adapters than rank 0, as on another processor; all go on \
                 with those of rank 0, which are sent after every step"
            )),
            Event::Saved { step, path } if step < steps => {
                display
                    .borrow()
                    .say(&format!("step {step}: saved {}", path.display()));
            }
            _ => {}
        });
        if let Some(error) = failed.borrow_mut().take() {
            display.borrow().finish();
            return Err(error);
        }
        let display = display.borrow();
        display.finish();
        let outcome = outcome?;
        match outcome {
            Outcome::Finished | Outcome::StoppedEarly { .. } => {
                if let Outcome::StoppedEarly { step } = outcome {
                    say!(
                        "Stopped after step {step} of {steps}: the held-out loss has not fallen for {} evaluations",
                        output.early_stop.unwrap_or_default()
                    );
                }
                save_last_or_best(output, trainer, data, run_dir)?;
                TrainingData::remove(run_dir.path());
                match page::write(run_dir.path(), None) {
                    Ok(path) => say!("The report is in {}", path.display()),
                    Err(error) => tell!("warning: there is no report: {}", one_line(&error)),
                }
                let paging = display.paging();
                if paging.bytes_moved > 0 {
                    say!(
                        "The optimizer's state is {}, of which {} stayed resident and {} were moved a step",
                        human_bytes(paging.state_bytes),
                        human_bytes(paging.resident_bytes),
                        human_bytes(paging.bytes_moved),
                    );
                }
                say!(
                    "The adapter is in {} ({:.0} tokens/s)",
                    run_dir.path().display(),
                    display.tokens_per_second(),
                );
            }
            // What was left is the evaluation.
            Outcome::Interrupted { step } if step == steps => {
                save_last_or_best(output, trainer, data, run_dir)?;
                say!(
                    "Stopped in the evaluation after the last step; the adapter is in {}",
                    run_dir.path().display()
                );
            }
            Outcome::Interrupted { step } => {
                say!("Stopped after step {step} of {steps}, saved");
                tell!("Go on with: {}", resume_command(std::env::args_os()));
            }
        }
        Ok(())
    }
}

/// Returns what a terminal shows of an evaluation.
fn evaluated(evaluation: &Evaluation) -> String {
    let more = match &evaluation.result {
        EvalResult::Texts(report) => format!(", perplexity {:.3}", report.perplexity),
        EvalResult::Preferences(report) => progress::rewards(&report.preferences),
        EvalResult::Loss { .. } => String::new(),
    };
    let seconds = evaluation.seconds;
    let seconds = seconds.map_or(String::new(), |seconds| format!(", in {seconds:.1} s"));
    format!(
        "step {}: held-out loss {:.4}{more}{seconds}",
        evaluation.step,
        evaluation.loss()
    )
}

/// Returns what a terminal shows of samples.
fn told(report: &SampleReport) -> String {
    let count = report.samples.len();
    let memory = report.device_bytes.or(report.peak_rss_bytes);
    let memory = memory.map_or(String::new(), |bytes| {
        format!(", peak memory {}", human_bytes(bytes))
    });
    let first = report
        .samples
        .first()
        .map_or(String::new(), |sample| words(&sample.text));
    format!(
        "step {}: {count} sample{} in {:.1} s{memory}; the first: {first}",
        report.step,
        if count == 1 { "" } else { "s" },
        report.seconds
    )
}

/// Saves the adapter that the run has come to: that of the last step, or of the best.
fn save_last_or_best(
    output: &Output,
    trainer: &Trainer<Decoder>,
    data: &TrainingData,
    run_dir: &RunDir,
) -> Result<()> {
    let step = trainer.steps_done();
    let best = match &data.eval {
        Some(rows) if output.keep_best => run_dir.evaluations(rows, step)?.best(),
        _ => None,
    };
    match best {
        Some(best) if best.step < step => {
            run_dir.save_adapter_of(best.step)?;
            say!(
                "The adapter is that of step {}, whose held-out loss, {:.4}, is the lowest",
                best.step,
                best.loss()
            );
        }
        _ => run_dir.save_adapter(trainer.model())?,
    }
    Ok(())
}
