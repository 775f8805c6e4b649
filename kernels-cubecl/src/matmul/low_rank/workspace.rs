//! The memory that the products take beside operands and results.

use nf4::Direction;

use super::super::gemv;

const F32: u128 = 4;

/// Returns the bytes that [`forward`](super::forward()) takes beside operands and result, for `m` rows that lie an equal
/// distance apart and a weight of `shape`, `[out_features, in_features]`: the transpose of `A`, and the workspace of the
/// product with the weight or `x·A`, in f32.
pub fn forward_workspace_bytes(m: usize, shape: [usize; 2], rank: usize) -> u128 {
    workspace_bytes(m, shape, rank, Direction::Forward)
}

/// Returns the bytes that [`backward`](super::backward()) takes beside operands and results: the transpose of `A`, and the
/// workspace of the product with the weight or `x·A` and its gradient, in f32.
pub fn backward_workspace_bytes(m: usize, shape: [usize; 2], rank: usize) -> u128 {
    workspace_bytes(m, shape, rank, Direction::Transposed)
}

fn workspace_bytes(m: usize, shape: [usize; 2], rank: usize, direction: Direction) -> u128 {
    let [_, in_features] = shape;
    let projections = match direction {
        Direction::Forward => 1,
        Direction::Transposed => 2,
    };
    let transposed = F32 * rank as u128 * in_features as u128;
    let projected = F32 * projections * m as u128 * rank as u128;
    transposed + projected.max(gemv::workspace_bytes(m, direction.widths(shape), direction))
}
