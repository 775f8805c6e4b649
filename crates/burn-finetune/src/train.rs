//! The training loop.

/// The parts of a trainer.
mod builder;
/// The numbers of a run.
mod config;
/// The optimizers by their names.
mod optimizer_kind;
/// How far parameters can be from 0.
mod reach;
/// The events that a run reports.
pub(crate) mod report;
/// The whole run: data, evaluation, checkpoints, the ways it ends.
mod run;
/// The checkpoints of a run while it goes.
mod saves;
/// One optimizer step at a time.
pub(crate) mod trainer;

pub use builder::TrainerBuilder;
pub use config::TrainConfig;
pub use optimizer_kind::OptimizerKind;
pub use report::{EvalResult, Evaluation, Event, StepReport};
pub use run::{Look, Outcome, RunOptions};
pub use trainer::Trainer;
