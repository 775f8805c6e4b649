//! Attention in tiles (FlashAttention-2): the scores of a tile of queries against a tile of keys
//! stay in the second-level cache, and only the output and one number a row leave it.
//!
//! The query heads that share a key-value head are the rows of one matrix, so that the products
//! are tall and every key is read once for all of them. Tiles that a window or the sequences of a packed row hide whole
//! are not computed.

mod backward;
mod first_keys;
mod forward;
mod heads;
mod parts;
mod tile;

use nf4::attention::AttentionShape;

pub use backward::{Results, backward, backward_workspace_bytes};
pub use forward::{forward, forward_workspace_bytes};
pub use heads::{HeadsRef, Operands};

/// Returns the bytes that are kept for the backward pass: `q`, `k`, `v`, the output and one f32 a row; never the scores.
pub fn saved_bytes(shape: &AttentionShape, element_bytes: usize) -> u128 {
    let heads = shape.heads() as u128;
    let queries = shape.batch as u128 * shape.q_len as u128 * heads;
    let keys = shape.batch as u128 * shape.kv_len as u128 * shape.kv_heads as u128;
    let values = 2 * (queries + keys) * shape.head_dim as u128;
    values * element_bytes as u128 + queries * size_of::<f32>() as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use nf4::attention::AttentionConfig;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Returns the output and log-sum-exp of one query head at one position, by the formula.
    fn attend(q: &[f32], keys: &[(&[f32], &[f32])], config: AttentionConfig) -> (Vec<f64>, f64) {
        let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let score = |k: &[f32]| {
            let score = dot(k) * config.scale;
            let bounded = |cap: f64| cap * (score / cap).tanh();
            config.softcap.map_or(score, bounded)
        };
        let weights: Vec<f64> = keys.iter().map(|(k, _)| score(k).exp()).collect();
        let total: f64 = weights.iter().sum();
        let out = |j: usize| {
            let terms = keys.iter().zip(&weights);
            terms.map(|((_, v), w)| f64::from(v[j]) * w / total).sum()
        };
        ((0..q.len()).map(out).collect(), total.ln())
    }

    /// Longer than a tile of keys, with and without sequences, the first of which reach into the cache, and a window that
    /// does too.
    #[test]
    fn every_instruction_set_is_near_the_formula() {
        let [batch, q_len, kv_len, kv_heads, group, d] = [2, 290, 300, 2, 3, 16];
        let heads = kv_heads * group;
        let q = wave(batch * q_len * heads * d, 0.3);
        let [k, v] = [0.7, 1.1].map(|step| wave(batch * kv_len * kv_heads * d, step));
        let view = |data, len, heads| {
            let strides = [len * heads * d, heads * d, d, 1].map(|n: usize| n as isize);
            HeadsRef::new(data, [batch, len, heads, d], strides).expect("it is contiguous")
        };
        let offsets: Vec<i64> = (0..batch * q_len)
            .map(|i| (i % q_len / 70 * 70) as i64)
            .collect();
        for isa in Isa::available() {
            let configs = [
                (None, None),
                (Some(60), None),
                (None, Some(0.7)),
                (Some(260), Some(0.7)),
            ];
            let configs = configs.map(|(window, softcap)| {
                AttentionConfig::new(0.4)
                    .with_window(window)
                    .with_softcap(softcap)
            });
            let offsets = [None, Some(&*offsets)];
            let cases = configs
                .iter()
                .flat_map(|config| offsets.map(|o| (*config, o)));
            for (config, sequence_offsets) in cases {
                let operands = Operands {
                    q: view(&q, q_len, heads),
                    k: view(&k, kv_len, kv_heads),
                    v: view(&v, kv_len, kv_heads),
                    sequence_offsets,
                    config,
                };
                let (out, lse) = forward(*isa, &operands);
                for row in (0..batch * q_len * heads).step_by(7) {
                    let (position, head) = (row / heads, row % heads);
                    let (batch, i) = (position / q_len, position % q_len);
                    let first = sequence_offsets.map_or(0, |offsets| offsets[position] as usize);
                    let end = operands.shape().visible(i);
                    let window = config.window.unwrap_or(end);
                    let keys = first.max(end.saturating_sub(window))..end;
                    let at = |key: usize| ((batch * kv_len + key) * kv_heads + head / group) * d;
                    let keys: Vec<_> = keys.map(|n| (&k[at(n)..][..d], &v[at(n)..][..d])).collect();
                    let (expected, expected_lse) = attend(&q[row * d..][..d], &keys, config);
                    assert!((f64::from(lse[row]) - expected_lse).abs() < 1e-5, "{isa:?}");
                    for (found, expected) in out[row * d..][..d].iter().zip(expected) {
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{isa:?}");
                    }
                }
            }
        }
    }
}
