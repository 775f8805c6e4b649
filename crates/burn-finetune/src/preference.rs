//! Rows of preferences as a model is given them, and what a reference gives them.

/// A reference asked about rows.
mod asking;
/// Sequences side by side.
mod batch;
/// The same objective on held-out rows.
mod evaluate;
/// A file of what the reference gives.
mod file;
/// The gradients of a step.
mod gradients;
/// Prompts with the answers of others.
mod mismatch;
/// A file of what the reference has given so far.
mod pieces;
/// What the reference gives.
mod reference;
/// The rows of a step.
mod rows;

pub(crate) use batch::check_texts;
pub(crate) use evaluate::evaluate_until;
pub use evaluate::{PreferenceEvaluation, evaluate_preferences};
pub use file::ReferenceFile;
pub use gradients::{PreferenceGradients, PreferencePass};
pub use reference::{ReferenceConfig, References};
pub use rows::PreferenceRows;
