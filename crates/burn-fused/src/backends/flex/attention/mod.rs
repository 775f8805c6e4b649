//! Attention in tiles (FlashAttention-2): the scores of a tile of queries against a tile of keys
//! stay in the second-level cache, and only the output and one number a row leave it.
//!
//! The query heads that share a key-value head are the rows of one matrix, so that the products
//! are tall and every key is read once for all of them.

mod backward;
mod forward;
mod operand;
mod tile;

pub(super) use backward::backward;
pub(super) use forward::forward;
