//! Rows of tokens and where they come from.
//!
//! - [`encode`]: [`RowEncoder`], from a JSON object or a text to token rows with their targets.
//! - [`chat`]: which part of a conversation is the assistant's.
//! - [`mod@file`]: [`Dataset`], the rows of a file.
//! - [`batch`]: [`Batch`], rows as tensors.
//! - [`order`]: [`Order`], which rows a step sees.

pub mod batch;
pub mod chat;
pub mod encode;
pub mod file;
pub mod order;

pub use batch::Batch;
pub use encode::{Row, RowEncoder};
pub use file::Dataset;
pub use order::Order;
