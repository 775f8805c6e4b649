//! Products of dense f32 matrices on one thread, for callers that are many threads already.

use gemm::Parallelism;

use crate::matmul::dense::Beta;

/// A matrix in memory: element `(i, j)` is `data[i · rs + j · cs]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
}

impl<'a> Matrix<'a> {
    /// Views `rows` rows of `cols` values, each row `stride` after the one before.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len());
        Self {
            data,
            rows,
            cols,
            rs: stride,
            cs: 1,
        }
    }

    /// Returns the transpose.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            rs: self.cs,
            cs: self.rs,
            ..self
        }
    }
}

/// Writes `dst = a · b + beta · dst`, `dst` row-major without gaps.
pub(super) fn matmul(dst: &mut [f32], a: Matrix, b: Matrix, beta: Beta) {
    assert_eq!(a.cols, b.rows);
    assert!(a.rows * b.cols <= dst.len());
    // SAFETY: every index the strides lead to lies in the slices: `Matrix::new` and the assertion
    // above have checked that, and `dst` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            dst.as_mut_ptr(),
            1,
            b.cols as isize,
            beta == Beta::One,
            a.data.as_ptr(),
            a.cs as isize,
            a.rs as isize,
            b.data.as_ptr(),
            b.cs as isize,
            b.rs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_matrices() {
        let a: Vec<f32> = (0..12).map(|x| x as f32).collect();
        // [[0, 1], [4, 5], [8, 9]] and [[0, 1, 2], [6, 7, 8]]
        let left = Matrix::new(&a, 3, 2, 4);
        let right = Matrix::new(&a, 2, 3, 6);
        let mut dst = [1.0; 9];
        matmul(&mut dst, left, right, Beta::Zero);
        assert_eq!(dst, [6., 7., 8., 30., 39., 48., 54., 71., 88.]);
        matmul(&mut dst, right.t(), left.t(), Beta::One);
        assert_eq!(dst, [12., 37., 62., 37., 78., 119., 62., 119., 176.]);
    }
}
