//! The whole run: data, evaluation, checkpoints, the ways it ends.

use crate::data::{Batch, BatchLayout, Dataset, Row};
use crate::error::FinetuneError;
use crate::evaluate::evaluate_until;
use crate::memory;
use crate::objective::Objective;
use crate::preference::{self, PreferenceRows, References};
use crate::ranks::Ranks;
use crate::run_dir::{Evaluations, RunDir};
use crate::train::report::{EvalResult, Evaluation, Event};
use crate::train::saves::Saves;
use crate::train::trainer::{Trainer, Whole};
use burn_qlora::CausalLm;
use std::ops::ControlFlow;
use std::time::Instant;

/// Evaluation, checkpoints and interruption of a run of a model `M`.
pub struct RunOptions<'a, M> {
    /// Held-out rows, evaluated every [`eval_every`](Self::eval_every) steps and after the last one.
    pub eval: Option<&'a Dataset>,
    /// What the reference gives the rows to train on, where the objective holds the model against one.
    pub references: Option<&'a References>,
    /// What it gives the held-out rows.
    pub eval_references: Option<&'a References>,
    /// Steps between evaluations; `None` for the last step only.
    pub eval_every: Option<usize>,
    /// The folder of the checkpoints.
    pub run_dir: Option<&'a RunDir>,
    /// Steps between checkpoints; `None` for the last step (and an interruption) only.
    pub save_every: Option<usize>,
    /// Checkpoints that stay, the last ones and with [`keep_best`](Self::keep_best) the best; `None` for all of them.
    pub kept_checkpoints: Option<usize>,
    /// Whether a step with a lower held-out loss than all before it is saved.
    pub keep_best: bool,
    /// Evaluations in a row without a lower loss after which the run stops; `None` for never.
    pub early_stop: Option<usize>,
    /// Looks at the model before the first step, after every evaluation (where one would be, without rows for it) and after
    /// the last step, given the steps taken so far. Whatever it does with the model, the steps have the same bits. It may
    /// give up, which stops the run as an interruption does; one that goes on is shown the model of its first step first.
    pub look: Option<&'a Look<'a, M>>,
    /// Asked after every step and between the batches of an evaluation: whether to stop here. The step is saved, the
    /// evaluation is given up.
    pub interrupted: Option<&'a dyn Fn() -> bool>,
}

/// Looks at a model after a number of steps.
pub type Look<'a, M> = dyn Fn(&M, usize) -> ControlFlow<()> + 'a;

impl<M> Default for RunOptions<'_, M> {
    /// Returns a run without any of these.
    fn default() -> Self {
        Self {
            eval: None,
            references: None,
            eval_references: None,
            eval_every: None,
            run_dir: None,
            save_every: None,
            kept_checkpoints: None,
            keep_best: false,
            early_stop: None,
            look: None,
            interrupted: None,
        }
    }
}

impl<M> RunOptions<'_, M> {
    /// Returns whether to stop, which the other ranks are told then.
    fn is_interrupted(&self, ranks: &Ranks) -> bool {
        let stop = self.interrupted.is_some_and(|interrupted| interrupted());
        if stop {
            ranks.wish_to_stop();
        }
        stop || ranks.is_stop_wished()
    }
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are taken.
    Finished,
    /// The held-out loss has not fallen for [`early_stop`](RunOptions::early_stop) evaluations. The step is saved.
    StoppedEarly {
        /// Steps taken.
        step: usize,
    },
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
    /// uninterrupted one would have: an evaluation that was due and given up is made first. A step is saved before it is
    /// evaluated, and before a step that cannot be taken or an evaluation that fails is told of.
    ///
    /// Several ranks are given the same data and options, but for the run's folder, the look and the reports, which are the
    /// first rank's: what depends on them (which evaluations are made already, whether the run ends early) is its decision. A
    /// request to stop may come to any of them.
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
        options: &RunOptions<'_, M>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome, FinetuneError> {
        for data in std::iter::once(data).chain(options.eval) {
            self.check_lengths(data)?;
            Self::check_packing(data)?;
        }
        self.begin_together()?;
        let config = self.config().clone();
        let mut order = config.order(data)?;
        let device = self.model().device();
        let layout = BatchLayout::of(self.model(), config.neftune_alpha);
        let preferences = match config.objective {
            Objective::Sft => {
                preference::check_texts(data)?;
                None
            }
            objective => Some(PreferenceRows::new(data, options.references, objective)?),
        };
        let mut course = Course::open(options, config.objective, self.steps_done())?;
        loop {
            if let Some(outcome) = course.after_step(self, on_event)? {
                return Ok(outcome);
            }
            let places = order.rows_of(self.steps_done());
            let taken = match &preferences {
                Some(rows) => self.preference_step(rows, &places),
                None => {
                    let start = Instant::now();
                    let rows = places.iter().map(|row| data.row(*row));
                    let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
                    let chunks: Vec<&[Row]> = rows.chunks(config.batch_size).collect();
                    let whole = Whole {
                        micro_batches: chunks.len(),
                        targets: rows.iter().map(Row::targets).sum(),
                        tokens: rows.iter().map(Row::len).sum(),
                    };
                    let own = self.ranks().share(chunks.len());
                    let laid_out = |index: usize| Batch::laid_out(chunks[index], layout, &device);
                    let own = own.map(|index| (index, laid_out(index)));
                    self.step_on(start, whole, own.collect())
                }
            };
            match taken {
                Ok(report) => on_event(Event::Step(&report)),
                Err(error) => {
                    if leaves_the_trainer_whole(&error) {
                        course.save(self, on_event)?;
                        // The error is that of all ranks, none of which ends the run before it is saved.
                        self.ranks().any(false)?;
                    }
                    let mut places = places;
                    places.sort_unstable();
                    return Err(with_rows(error, data.places(places)));
                }
            }
        }
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
        let longest = match self.config().objective {
            Objective::Sft => data.longest(),
            _ => data.longest_sequence(),
        };
        if longest > context {
            return Err(FinetuneError::RowLength {
                value: longest,
                reason: format!("the model's context is {context} tokens"),
            });
        }
        Ok(())
    }
}

/// What comes between the steps.
struct Course<'a, M> {
    options: &'a RunOptions<'a, M>,
    saves: Saves<'a>,
    /// Those of the held-out rows, where there are any.
    evaluations: Option<Evaluations>,
    /// These rows, where they are preferences.
    preferences: Option<PreferenceRows<'a>>,
}

impl<'a, M: CausalLm> Course<'a, M> {
    fn open(
        options: &'a RunOptions<'a, M>,
        objective: Objective,
        steps_done: usize,
    ) -> Result<Self, FinetuneError> {
        let preferences = match (objective, options.eval) {
            (Objective::Sft, _) | (_, None) => None,
            (objective, Some(rows)) => {
                let references = options.eval_references;
                Some(PreferenceRows::new(rows, references, objective)?)
            }
        };
        let evaluations = match (options.eval, options.run_dir) {
            (Some(rows), Some(run_dir)) => Some(run_dir.evaluations(rows, steps_done)?),
            (Some(_), None) => Some(Evaluations::in_memory()),
            (None, _) => None,
        };
        let course = Self {
            options,
            saves: Saves::new(options.run_dir, options.kept_checkpoints, steps_done),
            evaluations,
            preferences,
        };
        // Those that a process could not remove that was killed after it had saved.
        course.saves.remove_others(course.best_step())?;
        Ok(course)
    }

    /// Returns the step of the best evaluation so far, where it is to stay.
    fn best_step(&self) -> Option<usize> {
        let evaluations = self.evaluations.as_ref().filter(|_| self.options.keep_best);
        Some(evaluations?.best()?.step)
    }

    /// Saves and evaluates what is due after a step; returns how the run ends, if it does here.
    fn after_step(
        &mut self,
        trainer: &mut Trainer<M>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Outcome>, FinetuneError> {
        let step = trainer.steps_done();
        let last = step == trainer.config().steps;
        if step == 0 {
            // There is nothing to save yet, so a request to stop waits for the first step.
            let _ = self.look(trainer)?;
            return Ok(None);
        }
        let due =
            |every: Option<usize>| every.is_some_and(|every| step.is_multiple_of(every.max(1)));
        let ranks = trainer.ranks();
        let stop = ranks.any(!last && self.options.is_interrupted(ranks))?;
        if last || stop || due(self.options.save_every) {
            if let Some(rank) = trainer.compare_ranks()? {
                on_event(Event::AdaptersDiffer { step, rank });
            }
            self.save(trainer, on_event)?;
        }
        let evaluated = !(last || due(self.options.eval_every))
            || self.evaluate(trainer, stop, on_event)?
                && !stop
                && self.look(trainer)?.is_continue();
        if stop || !evaluated {
            self.save(trainer, on_event)?;
            return Ok(Some(Outcome::Interrupted { step }));
        }
        if last {
            return Ok(Some(Outcome::Finished));
        }
        let since_best = self.evaluations.as_ref().map_or(0, Evaluations::since_best);
        let most = self.options.early_stop;
        if let Some(most) = most
            && trainer.ranks().first(since_best >= most)?
        {
            self.save(trainer, on_event)?;
            return Ok(Some(Outcome::StoppedEarly { step }));
        }
        Ok(None)
    }

    /// Lets the first rank look at the model; returns whether it goes on, once all ranks know.
    fn look(&self, trainer: &Trainer<M>) -> Result<ControlFlow<()>, FinetuneError> {
        let looked = self.options.look.map(|look| {
            let (model, step) = (trainer.model(), trainer.steps_done());
            look(model, step)
        });
        let gives_up = looked.is_some_and(|looked| looked.is_break());
        Ok(match trainer.ranks().first(gives_up)? {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    /// Evaluates unless that is done, or the run is to `stop`; returns whether it came to its end.
    fn evaluate(
        &mut self,
        trainer: &Trainer<M>,
        stop: bool,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, FinetuneError> {
        let step = trainer.steps_done();
        let (Some(rows), Some(evaluations)) = (self.options.eval, &mut self.evaluations) else {
            return Ok(true);
        };
        let ranks = trainer.ranks();
        if ranks.first(evaluations.has(step))? {
            return Ok(true);
        }
        let interrupted = || stop || self.options.is_interrupted(ranks);
        let batch_size = trainer.config().batch_size;
        let start = Instant::now();
        let model = trainer.model();
        let evaluated = match &self.preferences {
            Some(rows) => {
                let objective = trainer.config().objective;
                preference::evaluate_until(model, rows, objective, batch_size, &interrupted, ranks)
                    .map(|report| report.map(EvalResult::Preferences))
            }
            None => evaluate_until(model, rows, batch_size, &interrupted, ranks)
                .map(|report| report.map(EvalResult::Texts)),
        };
        let result = match evaluated {
            Ok(Some(result)) => result,
            Ok(None) => {
                on_event(Event::EvaluationLeftOut { step });
                return Ok(false);
            }
            Err(error) => {
                self.save(trainer, on_event)?;
                if matches!(error, FinetuneError::EvalNotFinite { .. }) {
                    ranks.any(false)?;
                }
                return Err(error);
            }
        };
        let evaluation = Evaluation {
            step,
            result,
            seconds: Some(start.elapsed().as_secs_f64()),
            peak_rss_bytes: memory::peak_rss_bytes(),
        };
        on_event(Event::Evaluated(&evaluation));
        let best = evaluations.best();
        let is_better = best.is_none_or(|best| evaluation.loss() < best.loss());
        if self.options.keep_best && is_better {
            // The best so far stays until this one is written down.
            let best = best.map(|best| best.step);
            self.saves.save(trainer, best, on_event)?;
        }
        evaluations.record(evaluation)?;
        Ok(true)
    }

    fn save(
        &mut self,
        trainer: &Trainer<M>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), FinetuneError> {
        let best = self.best_step();
        self.saves.save(trainer, best, on_event)
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
