use std::{mem::MaybeUninit, ops::Range};

use crate::simd::math::{LANES, exp, max, mul_add, sum, tanh};
use crate::simd::{Simd, kernel};
use nf4::attention::{AttentionConfig, AttentionShape};

/// Keys of a tile. With [`ROWS`] rows that is 96 KiB of f32 scores, so that two such tiles and
/// their operands stay in a second-level cache of 512 KiB.
pub(super) const KEYS: usize = 256;

/// Rows (query positions times heads of a group) of a tile: enough for the products to be efficient,
/// few enough that little of the work is on the wrong side of the diagonal. Measured with three
/// heads a group: forward and backward passes take 8.0 ms with 48, 8.1 with 96, 8.7 with 192.
const ROWS: usize = 96;

/// Returns the number of query positions of a tile.
pub(super) fn positions(shape: &AttentionShape) -> usize {
    (ROWS / shape.group.max(1)).clamp(1, 64)
}

/// Returns the tiles of the keys that queries up to position `last` see, from the least of their `first_keys` on.
pub(super) fn key_tiles(
    shape: &AttentionShape,
    last: usize,
    first_keys: &[usize],
) -> impl Iterator<Item = Range<usize>> {
    let first = first_keys.iter().copied().min().unwrap_or(0);
    let visible = shape.visible(last);
    (first..visible)
        .step_by(KEYS)
        .map(move |start| start..(start + KEYS).min(visible))
}

/// The attention mask of a tile of scores: a range of keys for each row.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileMask<'a> {
    /// Keys of the tile, the width of a row.
    keys: usize,
    /// Keys before the tile.
    before: usize,
    /// The first key that each position sees; none where that is key 0.
    first_keys: &'a [usize],
    /// Where the keys of the tile end that the first position sees; for every next position one later.
    end: isize,
    group: usize,
}

impl<'a> TileMask<'a> {
    pub fn new(
        shape: &AttentionShape,
        first_position: usize,
        keys: &Range<usize>,
        first_keys: &'a [usize],
    ) -> Self {
        Self {
            keys: keys.len(),
            before: keys.start,
            first_keys,
            end: shape.visible(first_position) as isize - keys.start as isize,
            group: shape.group,
        }
    }

    /// Returns the keys of the tile that row `row` sees.
    #[inline(always)]
    fn of(&self, row: usize) -> Range<usize> {
        let position = row / self.group;
        let end = (self.end + position as isize).clamp(0, self.keys as isize) as usize;
        let start = self
            .first_keys
            .get(position)
            .map_or(0, |first| first.saturating_sub(self.before).min(end));
        start..end
    }

    /// Turns the products that row `row` sees into scores and returns them, after the others are made 0.
    #[inline(always)]
    fn unmask<'s, S: Simd>(
        &self,
        row: usize,
        config: AttentionConfig,
        scores: &'s mut [f32],
    ) -> &'s mut [f32] {
        let scale = config.scale as f32;
        let Range { start, end } = self.of(row);
        scores[..start].fill(0.0);
        scores[end..].fill(0.0);
        let seen = &mut scores[start..end];
        match config.softcap {
            None => seen.iter_mut().for_each(|score| *score *= scale),
            Some(cap) => {
                let cap = cap as f32;
                let inner = scale / cap;
                for score in seen.iter_mut() {
                    *score = cap * tanh::<S>(*score * inner);
                }
            }
        }
        seen
    }
}

kernel! {
    /// Takes one step of the running softmax. Products become scores `s`, and these `exp(s − m)` with `m` the row's
    /// maximum so far, hidden ones 0; `sums` and the rows of `out`, `d` wide, are brought to the new maximum.
    pub(super) fn softmax_step<S: Simd>(
        mask: TileMask<'_>,
        config: AttentionConfig,
        scores: &mut [f32],
        maxima: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
        d: usize,
    ) {
        let rows = scores.chunks_exact_mut(mask.keys).zip(maxima).zip(sums);
        for (row, (((scores, maximum), total), out)) in
            rows.zip(out.chunks_exact_mut(d)).enumerate()
        {
            let seen = mask.unmask::<S>(row, config, scores);
            let new = max(*maximum, seen);
            if new > *maximum {
                // At first the maximum is −∞, the sum 0, and the row not written yet or 0.
                if *total > 0.0 {
                    let factor = exp::<S>(*maximum - new);
                    *total *= factor;
                    for value in out {
                        *value *= factor;
                    }
                }
                *maximum = new;
            }
            for score in seen.iter_mut() {
                *score = exp::<S>(*score - *maximum);
            }
            *total += sum::<LANES>(seen.len(), |total, i| total + seen[i]);
        }
    }

    /// Turns products into probabilities, hidden ones 0. A softcap's derivative at the scores, `1 − (s/c)²`, goes to
    /// `slopes`, which is empty without one.
    pub(super) fn probabilities<S: Simd>(
        mask: TileMask<'_>,
        config: AttentionConfig,
        scores: &mut [f32],
        lse: &[f32],
        slopes: &mut [f32],
    ) {
        for (row, (scores, lse)) in scores.chunks_exact_mut(mask.keys).zip(lse).enumerate() {
            let seen = mask.unmask::<S>(row, config, scores);
            if let Some(cap) = config.softcap {
                let slopes = &mut slopes[row * mask.keys..][mask.of(row)];
                let inner = 1.0 / cap as f32;
                for (slope, score) in slopes.iter_mut().zip(&*seen) {
                    let tanh = score * inner;
                    *slope = mul_add::<S>(-tanh, tanh, 1.0);
                }
            }
            for score in seen {
                *score = exp::<S>(*score - lse);
            }
        }
    }

    /// Turns the gradients of the probabilities into those of the scores, `p ∘ (dp − delta)`.
    pub(super) fn score_gradients<S: Simd>(p: &[f32], keys: usize, deltas: &[f32], dp: &mut [f32]) {
        let rows = p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys));
        for ((p, dp), delta) in rows.zip(deltas) {
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - delta);
            }
        }
    }

    /// Multiplies `values` by `factors`.
    pub(super) fn multiply<S: Simd>(values: &mut [f32], factors: &[f32]) {
        for (value, factor) in values.iter_mut().zip(factors) {
            *value *= factor;
        }
    }

    /// Computes the dot product of every pair of rows, `d` wide.
    pub(super) fn row_dots<S: Simd>(a: &[f32], b: &[f32], d: usize, dots: &mut [f32]) {
        for ((a, b), dot) in a.chunks_exact(d).zip(b.chunks_exact(d)).zip(dots) {
            *dot = sum::<16>(d, |total, i| mul_add::<S>(a[i], b[i], total));
        }
    }

    /// Divides each row of `from`, `d` wide, by its `sums`.
    pub(super) fn divide_rows<S: Simd>(from: &[f32], sums: &[f32], d: usize, to: &mut [MaybeUninit<f32>]) {
        let rows = from.chunks_exact(d).zip(to.chunks_exact_mut(d));
        for ((from, to), sum) in rows.zip(sums) {
            let factor = 1.0 / sum;
            for (to, from) in to.iter_mut().zip(from) {
                to.write(from * factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::first_keys::FirstKeys;
    use super::*;

    /// Returns the scores that are computed for one head.
    fn scores(shape: &AttentionShape, window: Option<usize>) -> usize {
        let first_keys = FirstKeys::new(None, window, shape);
        let step = positions(shape);
        let starts = (0..shape.q_len).step_by(step);
        starts
            .map(|start| {
                let queries = start..(start + step).min(shape.q_len);
                let first_keys = first_keys.of(0, queries.clone());
                let keys = key_tiles(shape, queries.end - 1, first_keys);
                queries.len() * keys.map(|keys| keys.len()).sum::<usize>()
            })
            .sum()
    }

    #[test]
    fn what_a_window_hides_from_a_tile_is_not_computed() {
        let (len, window) = (8192, 512);
        let shape = AttentionShape {
            batch: 1,
            q_len: len,
            kv_len: len,
            kv_heads: 1,
            group: 3,
            head_dim: 64,
        };
        let seen = len * window - window * (window - 1) / 2;
        let computed = scores(&shape, Some(window));
        assert!(
            computed >= seen && computed < seen * 11 / 10,
            "{computed}, {seen} seen"
        );
        assert!(computed * 7 < scores(&shape, None));
    }
}
