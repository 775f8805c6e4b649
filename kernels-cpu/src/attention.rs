//! Attention in tiles (FlashAttention-2): the scores of a tile of queries against a tile of keys
//! stay in the second-level cache, and only the output and one number a row leave it.
//!
//! The query heads that share a key-value head are the rows of one matrix, so that the products
//! are tall and every key is read once for all of them. Tiles that a window or the sequences of a packed row hide whole
//! are not computed.

mod backward;
mod few_positions;
mod first_keys;
mod forward;
mod heads;
mod parts;
mod tile;

use nf4::attention::AttentionShape;

pub use backward::{Results, backward, backward_workspace_bytes};
pub use few_positions::forward as forward_few;
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
    use crate::element::Element;
    use crate::simd::Isa;
    use half::{bf16, f16};
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

    /// Keys and values of [`wave`]s, and queries.
    struct Inputs {
        shape: [usize; 6],
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
    }

    impl Inputs {
        fn new(shape @ [batch, q_len, kv_len, kv_heads, group, d]: [usize; 6]) -> Self {
            let [k, v] = [0.7, 1.1].map(|step| wave(batch * kv_len * kv_heads * d, step));
            let q = wave(batch * q_len * kv_heads * group * d, 0.3);
            Self { shape, q, k, v }
        }

        fn view<E: Element>(data: &[E], [batch, len, heads, d]: [usize; 4]) -> HeadsRef<'_, E> {
            let strides = [len * heads * d, heads * d, d, 1].map(|n: usize| n as isize);
            HeadsRef::new(data, [batch, len, heads, d], strides).expect("it is contiguous")
        }

        fn operands<'a>(
            &'a self,
            config: AttentionConfig,
            sequence_offsets: Option<&'a [i64]>,
        ) -> Operands<'a, f32> {
            let [batch, q_len, kv_len, kv_heads, group, d] = self.shape;
            Operands {
                q: Self::view(&self.q, [batch, q_len, kv_heads * group, d]),
                k: Self::view(&self.k, [batch, kv_len, kv_heads, d]),
                v: Self::view(&self.v, [batch, kv_len, kv_heads, d]),
                sequence_offsets,
                config,
            }
        }
    }

    fn configs() -> [AttentionConfig; 4] {
        let configs = [
            (None, None),
            (Some(60), None),
            (None, Some(0.7)),
            (Some(260), Some(0.7)),
        ];
        configs.map(|(window, softcap)| {
            AttentionConfig::new(0.4)
                .with_window(window)
                .with_softcap(softcap)
        })
    }

    /// Attends with queries, and keys and values, of shapes `[batch, len, heads, d]`.
    fn attended<E: Element, K: Element>(
        isa: Isa,
        config: AttentionConfig,
        (q, queries): (&[E], [usize; 4]),
        ([k, v], keys): ([&[K]; 2], [usize; 4]),
    ) -> (Vec<E>, Vec<f32>) {
        let operands = Operands {
            q: Inputs::view(q, queries),
            k: Inputs::view(k, keys),
            v: Inputs::view(v, keys),
            sequence_offsets: None,
            config,
        };
        forward_few(isa, &operands)
    }

    #[test]
    fn few_positions_read_keys_and_values_of_any_type() {
        fn check<E: Element, K: Element>(isa: Isa, config: AttentionConfig) {
            let inputs = Inputs::new([2, 3, 70, 2, 3, 20]);
            let q: Vec<E> = inputs.q.iter().map(|q| E::from_f32(*q)).collect();
            let narrow = |values: &[f32]| values.iter().map(|x| K::from_f32(*x)).collect();
            let [k, v]: [Vec<K>; 2] = [narrow(&inputs.k), narrow(&inputs.v)];
            let widened =
                |values: &[K]| -> Vec<f32> { values.iter().map(|x| x.to_f32()).collect() };
            let [wide_k, wide_v] = [widened(&k), widened(&v)];
            let [batch, q_len, kv_len, kv_heads, group, d] = inputs.shape;
            let (queries, keys) = (
                [batch, q_len, kv_heads * group, d],
                [batch, kv_len, kv_heads, d],
            );
            let found = attended(isa, config, (&q, queries), ([&k, &v], keys));
            let expected = attended(isa, config, (&q, queries), ([&wide_k, &wide_v], keys));
            assert_eq!(
                bytemuck::cast_slice::<E, u8>(&found.0),
                bytemuck::cast_slice::<E, u8>(&expected.0)
            );
            assert_eq!(found.1, expected.1);
        }
        for isa in Isa::available() {
            for config in configs() {
                check::<f32, bf16>(*isa, config);
                check::<f32, f16>(*isa, config);
                check::<f16, bf16>(*isa, config);
                check::<bf16, f16>(*isa, config);
            }
        }
    }

    /// Longer than a tile of keys, with and without sequences, the first of which reach into the cache, and a window that
    /// does too; few positions and many, of all numbers of heads and widths that are taken together or left over.
    #[test]
    fn every_instruction_set_is_near_the_formula() {
        near_the_formula([2, 290, 300, 2, 3, 16]);
        near_the_formula([3, 1, 300, 2, 3, 40]);
        near_the_formula([1, 5, 130, 1, 9, 64]);
        near_the_formula([2, 8, 70, 2, 6, 88]);
        near_the_formula([1, 3, 3, 1, 1, 20]);
    }

    fn near_the_formula(shape @ [batch, q_len, kv_len, kv_heads, group, d]: [usize; 6]) {
        let heads = kv_heads * group;
        let inputs = Inputs::new(shape);
        let (k, v) = (&inputs.k, &inputs.v);
        let offset = |i: usize| (i / 70 * 70 + i % 70 / 2).min(i + kv_len - q_len) as i64;
        let offsets: Vec<i64> = (0..batch * q_len).map(|i| offset(i % q_len)).collect();
        for isa in Isa::available() {
            let offsets = [None, Some(&*offsets)];
            let cases = configs()
                .into_iter()
                .flat_map(|config| offsets.map(|o| (config, o)));
            for (config, sequence_offsets) in cases {
                let operands = inputs.operands(config, sequence_offsets);
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
                    let (expected, expected_lse) = attend(&inputs.q[row * d..][..d], &keys, config);
                    assert!((f64::from(lse[row]) - expected_lse).abs() < 1e-5, "{isa:?}");
                    for (found, expected) in out[row * d..][..d].iter().zip(expected) {
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_position_of_few_has_the_bits_that_it_has_alone() {
        let shape @ [_, q_len, kv_len, kv_heads, group, d] = [1, 8, 150, 2, 3, 40];
        let (among, width) = (Inputs::new(shape), kv_heads * group * d);
        for isa in Isa::available() {
            for config in configs() {
                let (out, lse) = forward(*isa, &among.operands(config, None));
                for i in 0..q_len {
                    let seen = kv_len - q_len + i + 1;
                    let alone = Inputs {
                        shape: [1, 1, seen, kv_heads, group, d],
                        q: among.q[i * width..][..width].to_vec(),
                        k: among.k[..seen * kv_heads * d].to_vec(),
                        v: among.v[..seen * kv_heads * d].to_vec(),
                    };
                    let (out_alone, lse_alone) = forward(*isa, &alone.operands(config, None));
                    assert_eq!(out_alone, out[i * width..][..width], "{isa:?} {config:?}");
                    assert_eq!(lse_alone, lse[i * width / d..][..width / d]);
                }
            }
        }
    }
}
