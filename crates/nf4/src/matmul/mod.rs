//! Products with a quantized matrix that never decode more of it than a cache-sized panel.
//!
//! - `blocked`: many rows; panels are decoded into scratch and multiplied by a register tile (`panel`, `pack`, `tile`)
//! - `few_rows`: up to [`FEW_ROWS`] rows; codes are decoded in registers and used at once

mod blocked;
mod few_rows;
mod pack;
mod panel;
mod tile;

use crate::matrix::MatrixRef;
use crate::simd::Isa;

/// Which way a matrix `W` of `[out_features, in_features]` is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `y = x·Wᵀ`, from `[m, in_features]` to `[m, out_features]`.
    Forward,
    /// `y = x·W`, from `[m, out_features]` to `[m, in_features]`: the gradient of `Forward`.
    Transposed,
}

/// Up to this many rows the decoded weights are used straight from the register they were decoded in: a decoded
/// vector then serves so few rows that storing it would cost more than it saves. Measured with AVX-512 at 2048 x 2048:
/// about equal at 6 rows, and at 8 the blocked product takes three quarters of the time.
const FEW_ROWS: usize = 5;

/// Multiplies `x` (`m` rows, possibly none) by a quantized matrix, accumulating in f32.
///
/// `x: [m, in_features]` and `y: [m, out_features]` for [`Direction::Forward`], the other way round for
/// [`Direction::Transposed`]. The sum of every output element has an order of its own that depends on the
/// shapes alone: any number of threads gives the same bits.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn matmul(w: MatrixRef<'_>, x: &[f32], m: usize, y: &mut [f32], direction: Direction) {
    matmul_on(Isa::best(), w, x, m, y, direction);
}

/// [`matmul`] on a given instruction set.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_on(
    isa: Isa,
    w: MatrixRef<'_>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    direction: Direction,
) {
    let [n, k] = w.layout().shape();
    let (inner, outer) = match direction {
        Direction::Forward => (k, n),
        Direction::Transposed => (n, k),
    };
    assert_eq!(
        Some(x.len()),
        m.checked_mul(inner),
        "matmul: `x` must hold [{m}, {inner}] values"
    );
    assert_eq!(
        Some(y.len()),
        m.checked_mul(outer),
        "matmul: `y` must hold [{m}, {outer}] values"
    );
    if y.is_empty() {
        return;
    }
    if inner == 0 {
        return y.fill(0.0);
    }
    // Rows of whole words are what the kernels for few rows read.
    match (m <= FEW_ROWS && k.is_multiple_of(8), direction) {
        (true, Direction::Forward) => few_rows::forward(isa, w, x, m, y),
        (true, Direction::Transposed) => few_rows::transposed(isa, w, x, m, y),
        (false, _) => blocked::matmul(isa, w, x, m, y, direction),
    }
}
