//! Rows of tokens and where they come from.

/// The assistant's part of a conversation.
mod answers;
/// Rows as tensors.
mod batch;
/// Which examples share a row.
mod best_fit;
/// A data set that grows example by example.
mod builder;
/// A file of tokenised rows.
mod cache;
/// The names of columns.
mod columns;
/// What became of the examples of a data set.
mod counts;
/// Tokenised rows by their place.
mod dataset;
/// From an example to token rows with their targets.
mod encode;
/// From preferences to token rows.
mod encode_preference;
/// The example of a row.
pub(crate) mod example;
/// The rows of files.
mod file;
/// A hash of rows in their order.
pub(crate) mod fingerprint;
/// Rows made of other rows.
mod groups;
/// Examples held out from training.
mod hold_out;
/// Files that stand for the same contents as long as nothing has changed.
pub(crate) mod keyed_file;
/// The rows of a step.
mod order;
/// Several examples in a row.
mod packing;
/// Prompts that a model is to answer.
mod prompt;
/// One row of a batch.
mod row;
/// Files and their formats.
pub(crate) mod source;
/// Bytes in memory or in a file.
pub(crate) mod spill;
/// Rows by their place in files.
mod store;
/// A text that is too long to be tokenised at once.
mod text;
/// Texts as tokens.
mod tokens;
/// What is said of the sequences of a row.
mod verdict;

pub use answers::Learn;
pub use batch::{Batch, BatchLayout};
pub use builder::DatasetBuilder;
pub use cache::RowCache;
pub use columns::Columns;
pub use counts::{Counts, Told};
pub use dataset::Dataset;
pub use encode::{Encoded, RowEncoder};
pub use hold_out::Split;
pub use order::Order;
pub use prompt::Prompt;
pub use row::Row;
pub use source::{Source, Sources, is_data_file};
pub use tokens::{TextEncoder, TextStream};
pub use verdict::{ExampleKind, Verdicts};
