//! Rows of tokens and where they come from.

/// Rows as tensors.
mod batch;
/// The assistant's part of a conversation.
mod chat;
/// From a JSON object or a text to token rows with their targets.
mod encode;
/// The rows of a file.
mod file;
/// The rows of a step.
mod order;

pub use batch::Batch;
pub use encode::{Row, RowEncoder};
pub use file::Dataset;
pub use order::Order;
