use burn_core::{
    backend::ops::IntTensorOps,
    tensor::{DType, IntDType},
};
use burn_flex::{Flex, FlexTensor};
use core::{mem::MaybeUninit, ops::Range};

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

/// The first key that each query of a batch sees.
pub(super) struct Starts {
    /// `[batch, q_len]`, or empty where all begin at 0.
    firsts: Vec<usize>,
    q_len: usize,
}

impl Starts {
    pub fn new(starts: Option<FlexTensor>, shape: &AttentionShape) -> Self {
        let firsts = starts.map_or_else(Vec::new, |starts| {
            let starts = match starts.dtype() {
                DType::I64 => starts,
                _ => Flex::int_cast(starts, IntDType::I64),
            };
            let starts = starts.to_contiguous();
            let starts: &[i64] = starts.storage();
            let own = (0..shape.batch).flat_map(|_| (0..shape.q_len).map(|i| shape.visible(i) - 1));
            let inside = |(start, own): (&i64, usize)| (*start).clamp(0, own as i64) as usize;
            starts.iter().zip(own).map(inside).collect()
        });
        Self {
            firsts,
            q_len: shape.q_len,
        }
    }

    /// Those of the queries `range` of row `batch`; none where all begin at 0.
    pub fn of(&self, batch: usize, range: Range<usize>) -> &[usize] {
        match self.firsts.is_empty() {
            true => &[],
            false => &self.firsts[batch * self.q_len..][range],
        }
    }
}

/// The tiles of the keys that queries up to position `last` see, whose first keys are `starts`.
pub(super) fn key_tiles(
    shape: &AttentionShape,
    last: usize,
    starts: &[usize],
) -> impl Iterator<Item = Range<usize>> {
    let first = starts.iter().copied().min().unwrap_or(0);
    let visible = shape.visible(last);
    (first..visible)
        .step_by(KEYS)
        .map(move |start| start..(start + KEYS).min(visible))
}

/// Which keys each row of a tile of scores sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    /// Keys of the tile, the width of a row.
    keys: usize,
    /// Keys before the tile.
    before: usize,
    /// The first key that each position sees; none where all begin at 0.
    starts: &'a [usize],
    /// Keys of the tile that the first position sees; every next position sees one more.
    first: isize,
    group: usize,
}

impl<'a> Sight<'a> {
    pub fn new(
        shape: &AttentionShape,
        first_position: usize,
        keys: &Range<usize>,
        starts: &'a [usize],
    ) -> Self {
        Self {
            keys: keys.len(),
            before: keys.start,
            starts,
            first: shape.visible(first_position) as isize - keys.start as isize,
            group: shape.group,
        }
    }

    /// The keys of the tile that row `row` sees.
    #[inline(always)]
    fn of(&self, row: usize) -> Range<usize> {
        let position = row / self.group;
        let end = (self.first + position as isize).clamp(0, self.keys as isize) as usize;
        let start = self
            .starts
            .get(position)
            .map_or(0, |start| start.saturating_sub(self.before).min(end));
        start..end
    }

    /// The scores that row `row` sees, after the others are made 0.
    #[inline(always)]
    fn hide<'s>(&self, row: usize, scores: &'s mut [f32]) -> &'s mut [f32] {
        let Range { start, end } = self.of(row);
        scores[..start].fill(0.0);
        scores[end..].fill(0.0);
        &mut scores[start..end]
    }
}

vectorised! {
    /// One step of the running softmax. Scores become `exp(s − m)` with `m` the row's maximum so
    /// far, hidden ones 0; `sums` and the rows of `out`, `d` wide, are brought to the new maximum.
    fn softmax_step(
        sight: Sight<'_>,
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
            let seen = sight.hide(row, scores);
            let new = max(*maximum, seen);
            if new > *maximum {
                // At first the maximum is −∞, the sum 0, and the row not written yet or 0.
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
    fn probabilities(sight: Sight<'_>, scores: &mut [f32], lse: &[f32]) {
        for (row, (scores, lse)) in scores.chunks_exact_mut(sight.keys).zip(lse).enumerate() {
            for score in sight.hide(row, scores) {
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

    /// The rows `d` wide of `from`, each divided by its `sums`.
    fn divide_rows(from: &[f32], sums: &[f32], d: usize, to: &mut [MaybeUninit<f32>]) {
        let rows = from.chunks_exact(d).zip(to.chunks_exact_mut(d));
        for ((from, to), sum) in rows.zip(sums) {
            let factor = 1.0 / sum;
            for (to, from) in to.iter_mut().zip(from) {
                to.write(from * factor);
            }
        }
    }
}
