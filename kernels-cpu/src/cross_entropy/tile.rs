use crate::simd::kernel;
use crate::simd::math::{LANES, exp, max, sum};

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
    /// brought to the new maximum.
    pub(super) fn softmax_step<S: Simd>(
        logits: &mut [f32],
        width: usize,
        maxima: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
        n: usize,
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
            for logit in logits.iter_mut() {
                *logit = exp::<S>(*logit - *maximum);
            }
            *total += sum::<LANES>(logits.len(), |total, i| total + logits[i]);
        }
    }

    /// Logits become probabilities.
    pub(super) fn probabilities<S: Simd>(logits: &mut [f32], width: usize, lse: &[f32]) {
        for (logits, lse) in logits.chunks_exact_mut(width).zip(lse) {
            for logit in logits {
                *logit = exp::<S>(*logit - lse);
            }
        }
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
