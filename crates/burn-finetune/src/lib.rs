//! Fine-tuning of causal language models in Burn: from text files to trained adapters.
//!
//! A model joins by implementing [`CausalLm`]; nothing here knows LLaMA. The loop is this crate's own and
//! stands on [`burn_paged`]'s AdamW, because burn-train saves whole models once an epoch, clips each tensor by
//! itself and cannot divide a loss by the target tokens of a whole optimizer step.
//!
//! - [`model`]: [`CausalLm`], what a model has to offer.
//! - [`data`]: [`Dataset`], rows of tokens from JSONL and text files; [`Batch`], rows as tensors;
//!   [`Order`], which rows a step sees.
//! - [`template`]: [`ChatTemplate`], the Jinja templates that come with chat models.
//! - [`schedule`]: [`Schedule`], the learning rate of a step.
//! - [`clip`]: clipping by the global norm.
//! - [`optimizer`]: AdamW over the adapters, its moments in pages and named by layer.
//! - [`train`]: [`Trainer`], the loop, with its configuration, reports and interruption.
//! - [`mod@evaluate`]: loss and perplexity on held-out rows.
//! - [`checkpoint`]: [`RunDir`], a run's folder, and exact resumption from it.
//! - [`memory`]: how much memory the process has, has had at its peak, and could have, from burn-paged.
//! - [`error`]: [`FinetuneError`], everything that can go wrong.

pub mod checkpoint;
pub mod clip;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod model;
pub mod optimizer;
pub mod schedule;
pub mod template;
pub mod train;

pub use burn_paged::memory;
pub use checkpoint::RunDir;
pub use data::{Batch, Dataset, Order, Row, RowEncoder};
pub use error::FinetuneError;
pub use evaluate::{EvalReport, evaluate};
pub use model::CausalLm;
pub use optimizer::OptimizerKind;
pub use schedule::{Schedule, ScheduleKind};
pub use template::{ChatTemplate, Message};
pub use train::{Event, Outcome, RunOptions, StepReport, TrainConfig, Trainer};

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
