//! Fine-tuning of causal language models in Burn: from text files to trained adapters.
//!
//! A model joins by implementing [`CausalLm`](burn_qlora::CausalLm); nothing here knows LLaMA. The loop is this
//! crate's own and stands on [`burn_paged`]'s AdamW, because burn-train saves whole models once an epoch, clips each
//! tensor by itself and cannot divide a loss by the target tokens of a whole optimizer step.

/// What adapters are held against before they are saved or taken.
mod adapters;
/// Questions with choices.
mod choices;
/// Clipping by the global norm.
mod clip;
/// Rows of tokens from files of data, and batches of them.
mod data;
/// Everything that can go wrong.
mod error;
/// Loss and perplexity on held-out rows.
mod evaluate;
/// Numbers of JSON to the last bit.
mod exact;
/// The memory of the process: what it has, has had at its peak, and could have.
pub mod memory;
/// A date and a time.
mod moment;
/// What a run makes of its rows.
mod objective;
/// AdamW over the adapters, its moments in pages and named by layer.
mod optimizer;
/// Rows of preferences, and what a reference gives them.
mod preference;
/// Processes that train together.
mod ranks;
/// A run's folder, and exact resumption from it.
mod run_dir;
/// The learning rate of a step.
mod schedule;
/// The Jinja templates that come with chat models.
mod template;
/// The loop, with its configuration, reports and interruption.
mod train;

pub use choices::{ChoiceData, ChoiceReport, ChoiceTask, Shots, SubjectReport, score_choices};
pub use data::{
    Batch, BatchLayout, Columns, Counts, Dataset, DatasetBuilder, Encoded, ExampleKind, Learn,
    Order, Prompt, Row, RowCache, RowEncoder, Source, Sources, Split, TextEncoder, TextStream,
    Told, Verdicts, is_data_file,
};
pub use error::{FinetuneError, Place, RowProblem, RowWarning};
pub use evaluate::{EvalReport, evaluate};
pub use exact::exact_number;
pub use moment::Moment;
pub use objective::{Dpo, Kto, Objective, Orpo, PreferenceReport};
pub use preference::{
    PreferenceEvaluation, PreferenceGradients, PreferencePass, PreferenceRows, ReferenceConfig,
    ReferenceFile, References, evaluate_preferences,
};
pub use ranks::{GradientDtype, Link, Ranks, adapters_checksum};
#[cfg(feature = "mpi")]
pub use ranks::{Mpi, MpiError};
pub use run_dir::{Evaluations, RecordedRun, RunDir, RunRecord, RunSettings, RunSource};
pub use schedule::{Schedule, ScheduleKind};
pub use template::{
    ChatTemplate, Message, TemplateVariables, builtin_template, builtin_template_names,
};
pub use train::{
    EvalResult, Evaluation, Event, Look, OptimizerKind, Outcome, RunOptions, StepReport,
    TrainConfig, Trainer, TrainerBuilder,
};

/// Compiles and runs the example of the package's README.
#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;
