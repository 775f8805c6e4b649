use core::ops::Range;

use super::super::simd::{LANES, exp, max, mul_add, sum, vectorised};
use crate::attention_shape::AttentionShape;

/// Keys of a tile. With [`ROWS`] rows that is 96 KiB of f32 scores, so that two such tiles and
/// their operands stay in a second-level cache of 512 KiB.
pub(super) const KEYS: usize = 256;

/// Rows (query positions times heads of a group) of a tile: enough for the products to be efficient,
/// few enough that little of the work is on the wrong side of the diagonal. Measured with three
/// heads a group: forward and backward passes take 8.0 ms with 48, 8.1 with 96, 8.7 with 192.
const ROWS: usize = 96;

/// Query positions of a tile.
pub(super) fn positions(shape: &AttentionShape) -> usize {
    (ROWS / shape.group.max(1)).clamp(1, 64)
}

/// The tiles of the keys that the queries up to position `last` see.
pub(super) fn key_tiles(shape: &AttentionShape, last: usize) -> impl Iterator<Item = Range<usize>> {
    let visible = shape.visible(last);
    (0..visible)
        .step_by(KEYS)
        .map(move |start| start..(start + KEYS).min(visible))
}

/// Which keys each row of a tile of scores sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Keys of the tile, the width of a row.
    keys: usize,
    /// Keys of the tile that the first position sees; every next position sees one more.
    first: isize,
    group: usize,
}

impl Sight {
    pub fn new(shape: &AttentionShape, first_position: usize, keys: &Range<usize>) -> Self {
        Self {
            keys: keys.len(),
            first: shape.visible(first_position) as isize - keys.start as isize,
            group: shape.group,
        }
    }

    #[inline(always)]
    fn of(&self, row: usize) -> usize {
        (self.first + (row / self.group) as isize).clamp(0, self.keys as isize) as usize
    }
}

vectorised! {
    /// One step of the running softmax. Scores become `exp(s − m)` with `m` the row's maximum so
    /// far, hidden ones 0; `sums` and the rows of `out`, `d` wide, are brought to the new maximum.
    fn softmax_step(
        sight: Sight,
        scores: &mut [f32],
        maxima: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
        d: usize,
    ) {
        let rows = scores.chunks_exact_mut(sight.keys).zip(maxima).zip(sums);
        for (row, (((scores, maximum), total), out)) in
            rows.zip(out.chunks_exact_mut(d)).enumerate()
        {
            let (seen, hidden) = scores.split_at_mut(sight.of(row));
            hidden.fill(0.0);
            let new = max(*maximum, seen);
            if new > *maximum {
                // At first the maximum is −∞, the sum 0 and the row not written yet.
                if *total > 0.0 {
                    let factor = exp::<FMA>(*maximum - new);
                    *total *= factor;
                    for value in out {
                        *value *= factor;
                    }
                }
                *maximum = new;
            }
            for score in seen.iter_mut() {
                *score = exp::<FMA>(*score - *maximum);
            }
            *total += sum::<LANES>(seen.len(), |total, i| total + seen[i]);
        }
    }

    /// Scores become probabilities, hidden ones 0.
    fn probabilities(sight: Sight, scores: &mut [f32], lse: &[f32]) {
        for (row, (scores, lse)) in scores.chunks_exact_mut(sight.keys).zip(lse).enumerate() {
            let (seen, hidden) = scores.split_at_mut(sight.of(row));
            hidden.fill(0.0);
            for score in seen {
                *score = exp::<FMA>(*score - lse);
            }
        }
    }

    /// The gradients of the probabilities become those of the scores: `p ∘ (dp − delta)`.
    fn score_gradients(p: &[f32], keys: usize, deltas: &[f32], dp: &mut [f32]) {
        let rows = p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys));
        for ((p, dp), delta) in rows.zip(deltas) {
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - delta);
            }
        }
    }

    /// The dot product of every pair of rows, `d` wide.
    fn row_dots(a: &[f32], b: &[f32], d: usize, dots: &mut [f32]) {
        for ((a, b), dot) in a.chunks_exact(d).zip(b.chunks_exact(d)).zip(dots) {
            *dot = sum::<16>(d, |total, i| mul_add::<FMA>(a[i], b[i], total));
        }
    }

    /// `to` becomes `from` times `factor`.
    fn scale_row(from: &[f32], factor: f32, to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from * factor;
        }
    }
}
