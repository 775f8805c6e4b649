//! The whole run: data, evaluation, checkpoints, interruption.

use crate::checkpoint::RunDir;
use crate::data::{Batch, Dataset, Order, Row};
use crate::error::FinetuneError;
use crate::evaluate::evaluate;
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
    /// Asked after every step: whether to stop here. The step is finished and saved.
    pub interrupted: Option<&'a dyn Fn() -> bool>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are taken.
    Finished,
    /// The run was asked to stop.
    Interrupted {
        /// Steps taken so far.
        step: usize,
    },
}

impl<M: CausalLm> Trainer<M> {
    /// Takes the remaining steps on `data` and reports them to `on_event`.
    ///
    /// The rows of a step depend on the step's number alone, so a restored trainer goes on as the
    /// uninterrupted one would have.
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
        while self.steps_done() < config.steps {
            let places = order.rows_of(self.steps_done()).into_iter();
            let rows: Vec<Row> = places.map(|row| data.row(row)).collect::<Result<_, _>>()?;
            let batches: Vec<Batch> = rows
                .chunks(config.batch_size)
                .map(|rows| Batch::collate(rows, &device))
                .collect();
            let report = self.step(&batches)?;
            on_event(Event::Step(&report));

            let step = self.steps_done();
            let last = step == config.steps;
            let stop = !last && options.interrupted.is_some_and(|interrupted| interrupted());
            let due =
                |every: Option<usize>| every.is_some_and(|every| step.is_multiple_of(every.max(1)));
            if let Some(eval) = options.eval
                && (last || due(options.eval_every))
            {
                let report = evaluate(self.model(), eval, config.batch_size)?;
                on_event(Event::Evaluated { step, report });
            }
            if let Some(run_dir) = options.run_dir
                && (last || stop || due(options.save_every))
            {
                let path = run_dir.save(self)?;
                on_event(Event::Saved { step, path: &path });
            }
            if stop {
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
