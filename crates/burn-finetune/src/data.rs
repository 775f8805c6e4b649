//! Rows of tokens and where they come from.

/// The assistant's part of a conversation.
mod answers;
/// Rows as tensors.
mod batch;
/// Tokenised rows.
mod dataset;
/// From an example to token rows with their targets.
mod encode;
/// The rows of a file.
mod file;
/// The example of a line.
mod line;
/// The rows of a step.
mod order;
/// Texts as tokens.
mod tokens;

pub use answers::Learn;
pub use batch::Batch;
pub use dataset::Dataset;
pub use encode::{Encoded, Row, RowEncoder};
pub use order::Order;
pub use tokens::{TextEncoder, TextStream};
