//! The memory that the products take beside operands and results.

use nf4::Direction;

use super::super::gemv;

const F32: u128 = 4;

/// Returns the most bytes that [`backward`](super::backward()) takes beside operands and results, for `m` rows that lie an equal
/// distance apart and a weight of `shape`, `[out_features, in_features]`, in any format: the transpose of `A`, and `x·A` and its gradient
/// in f32 or the workspace of the product with the weight.
pub fn backward_workspace_bytes(m: usize, shape: [usize; 2], rank: usize) -> u128 {
    let [_, in_features] = shape;
    let direction = Direction::Transposed;
    let transposed = F32 * rank as u128 * in_features as u128;
    let projected = F32 * 2 * m as u128 * rank as u128;
    transposed + projected.max(gemv::workspace_bytes(m, direction.widths(shape), direction))
}
