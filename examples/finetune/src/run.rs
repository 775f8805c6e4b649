//! The command line resolved: plain values, each checked once, which are all that the commands read.

/// `finetune data`.
mod data;
/// The files of a data set.
mod data_files;
/// `finetune eval`.
mod eval;
/// `finetune export`.
mod export;
/// `finetune generate`.
mod generate;
/// The course of the learning rate.
mod learning_rate;
/// The model, its device and the format of its weights.
mod model;
/// What is learnt.
mod objective;
/// The optimizer's state: its format and its place.
mod optimizer;
/// The place of the packed weights.
mod paging;
/// `finetune quantize`.
mod quantize;
/// `finetune report`.
mod report;
/// The limits of the rows of a data file.
mod rows;
/// `finetune serve`.
mod serve;
/// Tokens whose rows are trained.
mod tokens;
/// `finetune train` and `finetune plan`.
mod train;
/// `finetune verify`.
mod verify;

pub use data::DataRun;
pub use data_files::DataFiles;
pub use eval::{Answering, EvalRun, Examples, Measure};
pub use export::{Check, ExportRun, HfTarget, Target};
pub use generate::{GenerateRun, Input};
pub use model::{Model, Stored};
pub use paging::WeightPaging;
pub use quantize::{CheckpointLayout, Loftq, QuantizeRun};
pub use report::ReportRun;
pub use rows::RowLimits;
pub use serve::{ServeLimits, ServeRun};
pub use tokens::Tokens;
pub use train::{Adapter, Output, PlanRun, PlannedModel, Rates, TrainRun, Training};
pub use verify::VerifyRun;
