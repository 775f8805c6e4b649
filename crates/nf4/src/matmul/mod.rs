//! Products with a quantized matrix that never decode more of it than a cache-sized panel.

use rayon::prelude::*;

use crate::dequantize::dequantize_range;
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

/// Multiplies `x` (`m` rows) by a quantized matrix.
///
/// # Panics
/// If the length of `x` or `y` does not fit `m` and the matrix's shape.
pub fn matmul(w: MatrixRef<'_>, x: &[f32], m: usize, y: &mut [f32], direction: Direction) {
    let [n, k] = w.layout().shape();
    let (inner, outer) = match direction {
        Direction::Forward => (k, n),
        Direction::Transposed => (n, k),
    };
    assert_eq!(x.len(), m * inner, "matmul: `x` must be [{m}, {inner}]");
    assert_eq!(y.len(), m * outer, "matmul: `y` must be [{m}, {outer}]");
    y.fill(0.0);
    y.par_chunks_mut(outer.max(1))
        .zip(x.par_chunks(inner.max(1)))
        .for_each(|(y, x)| {
            let mut row = vec![0.0; k];
            for j in 0..n {
                dequantize_range(Isa::best(), w, j * k, &mut row);
                match direction {
                    Direction::Forward => y[j] = row.iter().zip(x).map(|(w, x)| w * x).sum(),
                    Direction::Transposed => {
                        y.iter_mut().zip(&row).for_each(|(y, w)| *y += w * x[j])
                    }
                }
            }
        });
}
