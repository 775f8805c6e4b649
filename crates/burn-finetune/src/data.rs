//! Rows of tokens and where they come from.

/// The assistant's part of a conversation.
mod answers;
/// Rows as tensors.
mod batch;
/// The names of columns.
mod columns;
/// Tokenised rows.
mod dataset;
/// From an example to token rows with their targets.
mod encode;
/// The example of a row.
mod example;
/// The rows of files.
mod file;
/// The rows of a step.
mod order;
/// Files and their formats.
mod source;
/// Texts as tokens.
mod tokens;
/// What the user should hear of a file.
mod warnings;

pub use answers::Learn;
pub use batch::Batch;
pub use columns::Columns;
pub use dataset::Dataset;
pub use encode::{Encoded, Row, RowEncoder};
pub use order::Order;
pub use source::{Source, Sources, is_data_file};
pub use tokens::TextEncoder;
