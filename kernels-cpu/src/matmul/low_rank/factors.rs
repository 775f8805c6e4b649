//! The factors of a low-rank matrix.

use std::borrow::Cow;
use std::ops::Range;

use super::super::check::assert_len;
use super::layers::Layer;

/// The factors of a low-rank matrix, and what their product is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    pub(in crate::matmul) a: &'a [f32],
    pub(in crate::matmul) b: &'a [f32],
    pub(in crate::matmul) rank: usize,
    pub(in crate::matmul) scale: f32,
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

/// The factors `A` of layers of one input, side by side, so that the input meets all of them in one product.
pub(super) struct SideBySide<'a> {
    /// `[in_features, ranks]`.
    pub(super) a: Cow<'a, [f32]>,
    /// What each column of a projection is multiplied by.
    pub(super) scales: Vec<f32>,
    /// The columns of each layer, none of one that is not adapted.
    pub(super) columns: Vec<Range<usize>>,
}

impl<'a> SideBySide<'a> {
    pub(super) fn new(layers: &[Layer<'a>]) -> Self {
        let (mut scales, mut columns) = (Vec::new(), Vec::new());
        for layer in layers {
            let first = scales.len();
            if let Some(LowRank { rank, scale, .. }) = layer.low_rank {
                scales.resize(first + rank, scale);
            }
            columns.push(first..scales.len());
        }
        let mut factors = layers.iter().filter_map(|layer| layer.low_rank);
        let a = match (factors.next(), factors.next()) {
            (None, _) => Cow::Borrowed(&[][..]),
            (Some(only), None) => Cow::Borrowed(only.a),
            _ => Cow::Owned(side_by_side(layers, &columns)),
        };
        Self { a, scales, columns }
    }

    /// Returns the sum of the ranks.
    pub(super) fn ranks(&self) -> usize {
        self.scales.len()
    }
}

fn side_by_side(layers: &[Layer<'_>], columns: &[Range<usize>]) -> Vec<f32> {
    let ranks = columns.last().map_or(0, |columns| columns.end);
    let k = layers[0].w.layout().in_features();
    let mut a = vec![0.0; k * ranks];
    for (layer, columns) in layers.iter().zip(columns) {
        if let Some(low_rank) = layer.low_rank {
            let rows = low_rank.a.chunks_exact(low_rank.rank);
            for (to, from) in a.chunks_exact_mut(ranks).zip(rows) {
                to[columns.clone()].copy_from_slice(from);
            }
        }
    }
    a
}
