use super::logits::{Logits, cap_slope};
use crate::simd::math::{LANES, exp, fold, max, sum};
use crate::simd::{Simd, kernel};

/// Classes of a tile. With [`TOKENS`] tokens that is 512 KiB of logits, half a second-level cache
/// of 1 MiB; a tile of the weight is shared by all threads through the third-level cache.
pub(super) const CLASSES: usize = 512;

/// Tokens of a tile at most. With 512 the products alone are faster by a twelfth, decoding the weight half as often, but
/// logits leave the second-level cache, and whole training steps take as long (measured with AVX-512 BF16 on two cores).
pub(super) const TOKENS: usize = 256;

/// Fewest tokens for which a tile of their own is worth a pass over the weight.
const FEWEST: usize = 32;

/// Returns the number of tokens of a tile: all tokens in equal parts, as many for each of the threads.
pub(super) fn tokens(all: usize, threads: usize) -> usize {
    let parts = all.div_ceil(TOKENS).next_multiple_of(threads);
    all.div_ceil(parts.min(all / FEWEST).max(1)).max(1)
}

kernel! {
    /// Takes one step of the running softmax, without an output. Logits become `exp(l − m)` with `m` the
    /// row's maximum so far; `sums` and the rows of `out`, `n` wide (none if it is 0), are
    /// brought to the new maximum. With a `softcap`, which the logits have been through, what they become is
    /// multiplied by its derivative, and the sums are as without.
    pub(super) fn softmax_step<S: Simd>(
        logits: &mut [f32],
        width: usize,
        maxima: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
        n: usize,
        softcap: Option<f32>,
    ) {
        let rows = logits.chunks_exact_mut(width).zip(maxima).zip(sums);
        for (row, ((logits, maximum), total)) in rows.enumerate() {
            let new = max(*maximum, logits);
            if new > *maximum {
                let factor = exp::<S>(*maximum - new);
                *total *= factor;
                for value in &mut out[row * n..(row + 1) * n] {
                    *value *= factor;
                }
                *maximum = new;
            }
            *total += match softcap {
                None => {
                    for logit in logits.iter_mut() {
                        *logit = exp::<S>(*logit - *maximum);
                    }
                    sum::<LANES>(logits.len(), |total, i| total + logits[i])
                }
                Some(cap) => capped_exponentials::<S>(logits, *maximum, cap),
            };
        }
    }

    /// Takes one step of the running softmax whose logits stay: `sums` of `exp(l − m)`, with `m` the row's maximum so far, are
    /// brought to the new maximum.
    pub(super) fn sum_step<S: Simd>(
        logits: &[f32],
        width: usize,
        maxima: &mut [f32],
        sums: &mut [f32],
    ) {
        let rows = logits.chunks_exact(width).zip(maxima).zip(sums);
        for ((logits, maximum), total) in rows {
            let new = max(*maximum, logits);
            if new > *maximum {
                *total *= exp::<S>(*maximum - new);
                *maximum = new;
            }
            *total += sum::<LANES>(logits.len(), |total, i| total + exp::<S>(logits[i] - *maximum));
        }
    }

    /// Logits of the classes from `first` become the derivatives of the loss by their products.
    pub(super) fn slopes<S: Simd>(
        tile: &mut [f32],
        width: usize,
        lse: &[f32],
        classes: &[usize],
        first: usize,
        logits: Logits,
    ) {
        for ((row, lse), class) in tile.chunks_exact_mut(width).zip(lse).zip(classes) {
            let target = class.checked_sub(first).filter(|target| *target < width);
            let Logits { scale, softcap } = logits;
            match softcap {
                None if scale == 1.0 => row_slopes::<S>(row, *lse, target, |_| 1.0),
                None => row_slopes::<S>(row, *lse, target, |_| scale),
                Some(cap) => {
                    let inverse = 1.0 / cap;
                    row_slopes::<S>(row, *lse, target, |z| scale * cap_slope(z, inverse));
                }
            }
        }
    }
}

/// Capped logits become `exp(l − maximum)` times the derivative of the cap. Returns the sum of the exponentials alone.
#[inline(always)]
fn capped_exponentials<S: Simd>(logits: &mut [f32], maximum: f32, cap: f32) -> f32 {
    let inverse = 1.0 / cap;
    let step = |total: &mut f32, logit: &mut f32| {
        let exponential = exp::<S>(*logit - maximum);
        *total += exponential;
        *logit = exponential * cap_slope(*logit, inverse);
    };
    let mut lanes = [0f32; LANES];
    let mut chunks = logits.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (total, logit) in lanes.iter_mut().zip(chunk) {
            step(total, logit);
        }
    }
    for (total, logit) in lanes.iter_mut().zip(chunks.into_remainder()) {
        step(total, logit);
    }
    fold(lanes, |a, b| a + b)
}

/// Logits become `(softmax − one-hot of the target)` times their `slope`.
#[inline(always)]
fn row_slopes<S: Simd>(
    row: &mut [f32],
    lse: f32,
    target: Option<usize>,
    slope: impl Fn(f32) -> f32,
) {
    let at_target = target.map(|target| slope(row[target]));
    for logit in row.iter_mut() {
        *logit = exp::<S>(*logit - lse) * slope(*logit);
    }
    if let (Some(target), Some(slope)) = (target, at_target) {
        row[target] -= slope;
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn tiles_are_even_and_no_larger_than_their_limit() {
        assert_eq!([tokens(0, 2), tokens(1, 2), tokens(63, 2)], [1, 1, 63]);
        assert_eq!(
            [tokens(64, 2), tokens(1024, 2), tokens(1025, 2)],
            [32, 256, 171]
        );
        assert_eq!([tokens(1024, 16), tokens(100, 16)], [64, 34]);
    }
}
