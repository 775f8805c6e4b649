//! Attention in tiles (FlashAttention-2): the scores of a tile of queries against a tile of keys
//! stay in the second-level cache, and only the output and one number a row leave it.
//!
//! The query heads that share a key-value head are the rows of one matrix, so that the products
//! are tall and every key is read once for all of them.

mod backward;
mod forward;
mod heads;
mod sequences;
mod shape;
mod tile;

pub use backward::{Results, backward, backward_workspace};
pub use forward::{forward, forward_workspace};
pub use heads::{HeadsRef, Operands};
pub use shape::AttentionShape;

/// Bytes that are kept for the backward pass: `q`, `k`, `v`, the output and one f32 a row; never the scores.
pub fn saved(shape: &AttentionShape, element_bytes: usize) -> u128 {
    let heads = shape.heads() as u128;
    let queries = shape.batch as u128 * shape.q_len as u128 * heads;
    let keys = shape.batch as u128 * shape.kv_len as u128 * shape.kv_heads as u128;
    let values = 2 * (queries + keys) * shape.head_dim as u128;
    values * element_bytes as u128 + queries * size_of::<f32>() as u128
}
