//! The two products that a layer and its gradient take with one matrix.

use serde::{Deserialize, Serialize};

/// The side of a matrix `W: [out_features, in_features]` that a product sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// `y = x·Wᵀ`, from `[m, in_features]` to `[m, out_features]`.
    Forward,
    /// `y = x·W`, from `[m, out_features]` to `[m, in_features]`: the gradient of `Forward`.
    Transposed,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Direction; 2] = [Direction::Forward, Direction::Transposed];

    /// Returns `[k, n]`: the lengths of a row of `x` and of `y` for a matrix of shape `[out_features, in_features]`.
    pub const fn widths(self, [out_features, in_features]: [usize; 2]) -> [usize; 2] {
        match self {
            Direction::Forward => [in_features, out_features],
            Direction::Transposed => [out_features, in_features],
        }
    }
}
