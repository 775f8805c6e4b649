//! The training loop.
//!
//! - [`config`]: [`TrainConfig`], the numbers of a run.
//! - [`report`]: [`StepReport`] and [`Event`], what a run tells while it goes.
//! - [`TrainerBuilder`], what a trainer is made of.
//! - [`trainer`]: [`Trainer`], one optimizer step at a time.
//! - [`run`]: the whole run: data, evaluation, checkpoints, interruption.

mod builder;
pub mod config;
pub mod report;
pub mod run;
pub mod trainer;

pub use builder::TrainerBuilder;
pub use config::TrainConfig;
pub use report::{Event, StepReport};
pub use run::{Outcome, RunOptions};
pub use trainer::Trainer;
