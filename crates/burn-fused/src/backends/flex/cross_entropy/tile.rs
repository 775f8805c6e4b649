use super::super::simd::{LANES, exp, max, sum, vectorised};

/// Classes of a tile. With [`TOKENS`] tokens that is 512 KiB of logits, half a second-level cache
/// of 1 MiB; a tile of the weight is shared by all threads through the third-level cache.
pub(super) const CLASSES: usize = 512;

/// Tokens of a tile at most: the products come within a few percent of their best speed (measured
/// on AVX-512: 204 GFLOP/s with 256 tokens, 215 with 512, 187 with 128).
const TOKENS: usize = 256;

/// Tokens of a tile: the tokens in equal parts, a multiple of four of them so that a few threads
/// end together. It depends on the number of tokens alone, and so do the sums.
pub(super) fn tokens(all: usize) -> usize {
    let parts = match all {
        0..64 => 1,
        _ => all.div_ceil(TOKENS).next_multiple_of(4),
    };
    all.div_ceil(parts).max(1)
}

vectorised! {
    /// One step of the running softmax, without an output. Logits become `exp(l − m)` with `m` the
    /// row's maximum so far; `sums` and the rows of `out`, `n` wide (none if it is 0), are
    /// brought to the new maximum.
    fn softmax_step(
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
                let factor = exp::<FMA>(*maximum - new);
                *total *= factor;
                for value in &mut out[row * n..(row + 1) * n] {
                    *value *= factor;
                }
                *maximum = new;
            }
            for logit in logits.iter_mut() {
                *logit = exp::<FMA>(*logit - *maximum);
            }
            *total += sum::<LANES>(logits.len(), |total, i| total + logits[i]);
        }
    }

    /// Logits become probabilities.
    fn probabilities(logits: &mut [f32], width: usize, lse: &[f32]) {
        for (logits, lse) in logits.chunks_exact_mut(width).zip(lse) {
            for logit in logits {
                *logit = exp::<FMA>(*logit - lse);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn tiles_are_even_and_no_larger_than_their_limit() {
        assert_eq!([tokens(0), tokens(1), tokens(63)], [1, 1, 63]);
        assert_eq!([tokens(64), tokens(1024), tokens(1025)], [16, 256, 129]);
    }
}
