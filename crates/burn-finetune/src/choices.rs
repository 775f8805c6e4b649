//! Questions with choices: which answer a model finds likeliest, as EleutherAI's lm-evaluation-harness measures it.
//!
//! The published rows of MMLU, ARC and HellaSwag become the prompts that the harness's tasks of these names make of them, and
//! so do examples before them.

/// Rows of tokens.
mod encode;
/// Questions before others.
mod examples;
/// A question.
mod question;
/// The questions of files.
mod read;
/// What is told of a model.
mod report;
/// The log-likelihoods of choices.
mod score;
/// The kinds of rows.
mod task;

pub use read::{ChoiceData, Shots};
pub use report::{ChoiceReport, SubjectReport};
pub use score::score_choices;
pub use task::ChoiceTask;
