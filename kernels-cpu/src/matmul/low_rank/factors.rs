//! The factors of a low-rank matrix.

use super::super::check::assert_len;

/// The factors of a low-rank matrix, and what their product is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) rank: usize,
    pub(super) scale: f32,
}

impl<'a> LowRank<'a> {
    /// Returns `scale · a · b`, with `a: [in_features, rank]` and `b: [rank, out_features]`.
    pub const fn new(a: &'a [f32], b: &'a [f32], rank: usize, scale: f32) -> Self {
        Self { a, b, rank, scale }
    }

    /// # Panics
    /// Unless the factors fit a matrix of shape `[out_features, in_features]`.
    pub(super) fn assert_fits(self, [out_features, in_features]: [usize; 2]) {
        assert!(self.rank > 0, "matmul: the rank must be at least 1");
        assert_len("a", self.a.len(), [in_features, self.rank]);
        assert_len("b", self.b.len(), [self.rank, out_features]);
    }
}
