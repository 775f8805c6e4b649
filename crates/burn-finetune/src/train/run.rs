//! The whole run: data, evaluation, checkpoints, interruption.

use crate::data::{Batch, Dataset, Order, Row};
use crate::error::FinetuneError;
use crate::evaluate::evaluate_until;
use crate::run_dir::RunDir;
use crate::train::report::Event;
use crate::train::trainer::Trainer;
use burn_qlora::CausalLm;

/// Evaluation, checkpoints and interruption of a run.
#[derive(Default)]
pub struct RunOptions<'a> {
    /// Held-out rows, evaluated every [`eval_every`](Self::eval_every) steps and after the last one.
    pub eval: Option<&'a Dataset>,
    /// Steps between evaluations; `None` for the last step only.
    pub eval_every: Option<usize>,
    /// The folder of the checkpoints.
    pub run_dir: Option<&'a RunDir>,
    /// Steps between checkpoints; `None` for the last step (and an interruption) only.
    pub save_every: Option<usize>,
    /// Asked after every step and between the batches of an evaluation: whether to stop here. The step is saved, the
    /// evaluation is given up.
    pub interrupted: Option<&'a dyn Fn() -> bool>,
}

impl RunOptions<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.is_some_and(|interrupted| interrupted())
    }
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are taken.
    Finished,
    /// The run was asked to stop, in the evaluation after the last step perhaps.
    Interrupted {
        /// Steps taken so far.
        step: usize,
    },
}

impl<M: CausalLm> Trainer<M> {
    /// Takes the remaining steps on `data` and reports them to `on_event`.
    ///
    /// The rows of a step depend on the step's number alone, so a restored trainer goes on as the
    /// uninterrupted one would have. A step is saved before it is evaluated, and before a step that cannot be taken or an
    /// evaluation that fails is told of.
    ///
    /// # Errors
    /// [`FinetuneError::RowLength`] for a row longer than the model's context,
    /// [`FinetuneError::InvalidConfig`] for packed rows where the model cannot keep their examples apart, and what
    /// [`step`](Trainer::step), evaluation and saving say. Whatever was saved before stays.
    ///
    /// # Panics
    /// When `data` is empty.
    pub fn run(
        &mut self,
        data: &Dataset,
        options: &RunOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome, FinetuneError> {
        for data in std::iter::once(data).chain(options.eval) {
            self.check_lengths(data)?;
            Self::check_packing(data)?;
        }
        let config = self.config().clone();
        let shuffle = config.shuffle.then_some(config.seed);
        let mut order = Order::new(data.len(), config.rows_per_step(), shuffle);
        let device = self.model().device();
        let mut saves = Saves::new(options.run_dir, self.steps_done());
        while self.steps_done() < config.steps {
            let places = order.rows_of(self.steps_done());
            let rows = places.iter().map(|row| data.row(*row));
            let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
            let batches: Vec<Batch> = rows
                .chunks(config.batch_size)
                .map(|rows| Batch::collate(rows, &device))
                .collect();
            let report = match self.step(&batches) {
                Ok(report) => report,
                Err(error) => {
                    if leaves_the_trainer_whole(&error) {
                        saves.save(self, on_event)?;
                    }
                    let mut places = places;
                    places.sort_unstable();
                    return Err(with_rows(error, data.places(places)));
                }
            };
            on_event(Event::Step(&report));

            let step = self.steps_done();
            let last = step == config.steps;
            let mut stop = !last && options.is_interrupted();
            let due =
                |every: Option<usize>| every.is_some_and(|every| step.is_multiple_of(every.max(1)));
            if last || stop || due(options.save_every) {
                saves.save(self, on_event)?;
            }
            if let Some(eval) = options.eval
                && (last || due(options.eval_every))
            {
                let interrupted = || stop || options.is_interrupted();
                match evaluate_until(self.model(), eval, config.batch_size, &interrupted) {
                    Ok(Some(report)) => on_event(Event::Evaluated { step, report }),
                    Ok(None) => {
                        on_event(Event::EvaluationLeftOut { step });
                        stop = true;
                    }
                    Err(error) => {
                        saves.save(self, on_event)?;
                        return Err(error);
                    }
                }
            }
            if stop {
                saves.save(self, on_event)?;
                return Ok(Outcome::Interrupted { step });
            }
        }
        Ok(Outcome::Finished)
    }

    fn check_packing(data: &Dataset) -> Result<(), FinetuneError> {
        if data.examples() > data.len() && !M::PACKING {
            return Err(FinetuneError::InvalidConfig {
                field: "packing",
                value: format!("{} examples in {} rows", data.examples(), data.len()),
                expected: "one example a row: this model cannot keep several apart",
            });
        }
        Ok(())
    }

    fn check_lengths(&self, data: &Dataset) -> Result<(), FinetuneError> {
        let context = self.model().context_len();
        if data.longest() > context {
            return Err(FinetuneError::RowLength {
                value: data.longest(),
                reason: format!("the model's context is {context} tokens"),
            });
        }
        Ok(())
    }
}

/// Saves each step at most once.
struct Saves<'a> {
    run_dir: Option<&'a RunDir>,
    /// The last step that is saved, at first the one that the run begins at.
    saved: usize,
}

impl<'a> Saves<'a> {
    fn new(run_dir: Option<&'a RunDir>, steps_done: usize) -> Self {
        Self {
            run_dir,
            saved: steps_done,
        }
    }

    fn save<M: CausalLm>(
        &mut self,
        trainer: &Trainer<M>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), FinetuneError> {
        let step = trainer.steps_done();
        if let Some(run_dir) = self.run_dir
            && self.saved != step
        {
            let path = run_dir.save(trainer)?;
            self.saved = step;
            on_event(Event::Saved { step, path: &path });
        }
        Ok(())
    }
}

/// Returns whether the trainer is as it was before the step that failed with `error`.
fn leaves_the_trainer_whole(error: &FinetuneError) -> bool {
    matches!(
        error,
        FinetuneError::NotFinite { .. } | FinetuneError::UpdateTooLarge { .. }
    )
}

/// Adds where the rows of the step are.
fn with_rows(error: FinetuneError, places: Vec<String>) -> FinetuneError {
    match error {
        FinetuneError::NotFinite {
            step, what, value, ..
        } => FinetuneError::NotFinite {
            step,
            what,
            value,
            rows: places,
        },
        other => other,
    }
}
