use burn_core::tensor::{Bool, Device, Int, Tensor, activation::softmax};
use burn_fused::{AttentionConfig, causal_attention};

use crate::common::{assert_close, devices, leaf, loss, tensor};

/// `batch, q_len, kv_len, heads, kv_heads, head_dim`.
type Sizes = [usize; 6];

/// Every head's scores at once, differentiated by Burn.
pub fn reference(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    let [_, q_len, heads, _] = q.dims();
    let [batch, kv_len, kv_heads, d] = k.dims();
    let device = q.device();
    let repeat = |x: Tensor<4>| {
        x.swap_dims(1, 2)
            .reshape([batch, kv_heads, 1, kv_len, d])
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, kv_len, d])
    };
    let scores = q.swap_dims(1, 2).matmul(repeat(k).transpose()) * scale;
    let first = (kv_len - q_len) as i64;
    let queries = Tensor::<1, Int>::arange(first..kv_len as i64, &device).reshape([q_len, 1]);
    let keys = Tensor::<1, Int>::arange(0..kv_len as i64, &device).reshape([1, kv_len]);
    let hidden: Tensor<2, Bool> = keys
        .expand([q_len, kv_len])
        .greater(queries.expand([q_len, kv_len]));
    let hidden = hidden
        .reshape([1, 1, q_len, kv_len])
        .expand([batch, heads, q_len, kv_len]);
    let p = softmax(scores.mask_fill(hidden, -1e30), 3);
    p.matmul(repeat(v)).swap_dims(1, 2)
}

fn check([batch, q_len, kv_len, heads, kv_heads, d]: Sizes, gain: f64, device: &Device) {
    let device = device.clone().autodiff();
    let scale = gain / (d as f64).sqrt();
    let run = |f: &dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>, f64) -> Tensor<4>| {
        let q = leaf(1, [batch, q_len, heads, d], &device);
        let k = leaf(2, [batch, kv_len, kv_heads, d], &device);
        let v = leaf(3, [batch, kv_len, kv_heads, d], &device);
        let out = f(q.clone(), k.clone(), v.clone(), scale);
        let grads = loss(out.clone()).backward();
        (out, [q, k, v].map(|x| x.grad(&grads).unwrap()))
    };
    let (actual, actual_grads) =
        run(&|q, k, v, scale| causal_attention(q, k, v, AttentionConfig::new(scale)));
    let (expected, expected_grads) = run(&reference);
    assert_close("out", actual, expected);
    for (name, (a, e)) in ["dq", "dk", "dv"]
        .iter()
        .zip(actual_grads.into_iter().zip(expected_grads))
    {
        assert_close(name, a, e);
    }
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        for sizes in [
            [1, 1, 1, 1, 1, 2],
            [2, 5, 5, 3, 1, 6],
            [1, 33, 33, 4, 2, 16],
            [2, 70, 70, 9, 3, 64],
            [1, 130, 130, 2, 2, 33],
        ] {
            check(sizes, 3.0, &device);
        }
    }
}

#[test]
fn queries_are_the_last_of_the_keys() {
    for device in devices() {
        for sizes in [
            [1, 1, 9, 6, 2, 8],
            [2, 3, 70, 6, 3, 16],
            [1, 65, 129, 3, 1, 8],
        ] {
            check(sizes, 3.0, &device);
        }
    }
}

/// More keys than a tile holds: the softmax is carried from tile to tile, with scores that grow
/// so far that the carried maximum moves.
#[test]
fn rows_longer_than_a_tile_equal_the_composed_form() {
    for device in devices() {
        check([1, 300, 700, 3, 1, 16], 30.0, &device);
        check([1, 1, 1100, 4, 2, 32], 3.0, &device);
    }
}

/// More scores than the default body forms at a time.
#[test]
fn many_pairs_equal_the_composed_form() {
    for device in devices() {
        check([4, 1100, 1100, 4, 2, 8], 3.0, &device);
    }
}

#[test]
fn each_operand_may_be_frozen() {
    for device in devices() {
        let device = device.autodiff();
        let q = tensor::<4>(1, [1, 6, 4, 8], &device);
        let k = tensor::<4>(2, [1, 6, 2, 8], &device);
        let v = leaf(3, [1, 6, 2, 8], &device);
        let grads = loss(causal_attention(
            q.clone(),
            k.clone(),
            v.clone(),
            AttentionConfig::new(0.4),
        ))
        .backward();
        assert!(q.grad(&grads).is_none() && k.grad(&grads).is_none());
        let dv = v.grad(&grads).unwrap();
        let grads = loss(reference(q, k, v.clone(), 0.4)).backward();
        assert_close("dv", dv, v.grad(&grads).unwrap());
    }
}

/// A cache is longer than what is in it, and its heads may come before its positions.
#[test]
fn keys_may_be_views_of_a_cache() {
    for device in devices() {
        let q = tensor::<4>(1, [2, 3, 6, 8], &device);
        let cache = |seed| tensor::<4>(seed, [2, 50, 3, 8], &device).narrow(1, 0, 20);
        let by_head = |seed| tensor::<4>(seed, [2, 3, 20, 8], &device).swap_dims(1, 2);
        for (k, v) in [(cache(2), cache(3)), (by_head(2), by_head(3))] {
            let config = AttentionConfig::new(0.3);
            let actual = causal_attention(q.clone(), k.clone(), v.clone(), config);
            assert_close("out", actual, reference(q.clone(), k, v, 0.3));
        }
        let transposed = tensor::<4>(1, [2, 8, 6, 3], &device).swap_dims(1, 3);
        let config = AttentionConfig::new(0.3);
        let actual = causal_attention(transposed.clone(), cache(2), cache(3), config);
        assert_close(
            "out",
            actual,
            reference(transposed, cache(2), cache(3), 0.3),
        );
    }
}

#[test]
#[should_panic(expected = "causal_attention: 5 queries are more than 4 keys")]
fn more_queries_than_keys_are_refused() {
    let device = devices().remove(0);
    let k = tensor(2, [1, 4, 1, 8], &device);
    causal_attention(
        tensor(1, [1, 5, 1, 8], &device),
        k.clone(),
        k,
        AttentionConfig::new(1.0),
    );
}

mod packed {
    use super::*;
    use burn_core::tensor::TensorData;
    use burn_fused::{packed_causal_attention, rope};

    /// The first position of the sequence that each position is in, row after row.
    fn starts(rows: &[&[usize]], device: &Device) -> Tensor<2, Int> {
        let firsts: Vec<i64> = rows
            .iter()
            .flat_map(|lengths| {
                let ends = lengths.iter().scan(0, |end, len| {
                    *end += len;
                    Some((*end - len, *len))
                });
                ends.flat_map(|(start, len)| std::iter::repeat_n(start as i64, len))
            })
            .collect();
        let seq = firsts.len() / rows.len();
        Tensor::from_data(TensorData::new(firsts, [rows.len(), seq]), device)
    }

    /// Every head's scores at once, with the keys before the query's first one hidden.
    fn packed_reference(
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        starts: Tensor<2, Int>,
        scale: f64,
    ) -> Tensor<4> {
        let [batch, seq, heads, d] = q.dims();
        let kv_heads = k.dims()[2];
        let device = q.device();
        let repeat = |x: Tensor<4>| {
            x.swap_dims(1, 2)
                .reshape([batch, kv_heads, 1, seq, d])
                .repeat_dim(2, heads / kv_heads)
                .reshape([batch, heads, seq, d])
        };
        let all = [batch, heads, seq, seq];
        let at = |shape: [usize; 4]| {
            Tensor::<1, Int>::arange(0..seq as i64, &device)
                .reshape(shape)
                .expand(all)
        };
        let (queries, keys) = (at([1, 1, seq, 1]), at([1, 1, 1, seq]));
        let starts = starts.reshape([batch, 1, seq, 1]).expand(all);
        let hidden = keys.clone().greater(queries).bool_or(keys.lower(starts));
        let scores = q.swap_dims(1, 2).matmul(repeat(k).transpose()) * scale;
        let p = softmax(scores.mask_fill(hidden, -1e30), 3);
        p.matmul(repeat(v)).swap_dims(1, 2)
    }

    type Attention<'a> = &'a dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>;

    /// Output and gradients of q, k and v.
    fn run(f: Attention, q: [usize; 4], kv_heads: usize, device: &Device) -> [Tensor<4>; 4] {
        let kv = [q[0], q[1], kv_heads, q[3]];
        let (q, k, v) = (leaf(1, q, device), leaf(2, kv, device), leaf(3, kv, device));
        let out = f(q.clone(), k.clone(), v.clone());
        let grads = loss(out.clone()).backward();
        let [dq, dk, dv] = [q, k, v].map(|x| x.grad(&grads).unwrap());
        [out, dq, dk, dv]
    }

    const NAMES: [&str; 4] = ["out", "dq", "dk", "dv"];

    #[track_caller]
    fn check(rows: &[&[usize]], [heads, kv_heads, d]: [usize; 3], device: &Device) {
        let device = device.clone().autodiff();
        let starts = starts(rows, &device);
        let q = [rows.len(), starts.dims()[1], heads, d];
        let packed =
            |q, k, v| packed_causal_attention(q, k, v, starts.clone(), AttentionConfig::new(0.7));
        let actual = run(&packed, q, kv_heads, &device);
        // On Flex where that is enabled: Burn 0.22.1 makes a gradient of this form wrong on wgpu, at 133 keys.
        let first = devices().remove(0).autodiff();
        let starts = self::starts(rows, &first);
        let reference = |q, k, v| packed_reference(q, k, v, starts.clone(), 0.7);
        let expected = run(&reference, q, kv_heads, &first);
        for ((name, a), e) in NAMES.iter().zip(actual).zip(expected) {
            assert_close(&format!("{name} of {q:?} on {device:?}"), a, e);
        }
    }

    #[test]
    fn equals_the_composed_form() {
        for device in devices() {
            check(&[&[1]], [1, 1, 2], &device);
            check(&[&[3, 4, 2], &[9], &[1, 1, 7]], [6, 2, 8], &device);
            check(&[&[70, 30, 33], &[5, 100, 28]], [4, 4, 16], &device);
            // Sequences that begin and end within tiles, and padding of one token each.
            let mut padded = vec![300, 250];
            padded.extend([1; 50]);
            check(&[&padded, &[20, 270, 310]], [3, 1, 16], &device);
        }
    }

    /// Two rows of three sequences against the six sequences alone, positions and all.
    #[test]
    fn equals_the_sequences_run_separately() {
        for device in devices() {
            let device = device.autodiff();
            let rows: [&[usize]; 2] = [&[40, 75, 25], &[90, 1, 49]];
            let (heads, kv_heads, d, seq) = (6, 2, 8, 140);
            let starts = starts(&rows, &device);
            let angle = tensor::<2>(7, [seq, d / 2], &device) * 3.0;
            let positions = Tensor::<1, Int>::arange(0..seq as i64, &device)
                .reshape([1, seq])
                .expand([2, seq])
                - starts.clone();
            let own = angle.clone().select(0, positions.reshape([2 * seq]));
            let turned =
                |x: Tensor<4>, angle: &Tensor<2>| rope(x, angle.clone().cos(), angle.clone().sin());
            let packed = |q, k, v| {
                let (q, k) = (turned(q, &own), turned(k, &own));
                packed_causal_attention(q, k, v, starts.clone(), AttentionConfig::new(0.7))
            };
            let alone = |q: Tensor<4>, k: Tensor<4>, v: Tensor<4>| {
                let rows = rows.iter().enumerate().map(|(row, lengths)| {
                    let mut start = 0;
                    let parts = lengths.iter().map(|len| {
                        let part =
                            |x: &Tensor<4>| x.clone().narrow(0, row, 1).narrow(1, start, *len);
                        let [q, k, v] = [part(&q), part(&k), part(&v)];
                        let angle = angle.clone().narrow(0, 0, *len);
                        start += len;
                        let (q, k) = (turned(q, &angle), turned(k, &angle));
                        causal_attention(q, k, v, AttentionConfig::new(0.7))
                    });
                    Tensor::cat(parts.collect(), 1)
                });
                Tensor::cat(rows.collect(), 0)
            };
            let q = [2, seq, heads, d];
            let actual = run(&packed, q, kv_heads, &device);
            let expected = run(&alone, q, kv_heads, &device);
            for ((name, a), e) in NAMES.iter().zip(actual).zip(expected) {
                assert_close(name, a, e);
            }
        }
    }

    /// Starts that no sequence has: before the row, and after the query.
    #[test]
    fn a_query_sees_itself_whatever_the_start() {
        for device in devices() {
            let q = tensor::<4>(1, [1, 3, 2, 4], &device);
            let v = tensor::<4>(2, [1, 3, 2, 4], &device);
            let at = |starts: [i64; 3]| {
                let starts = TensorData::new(starts.to_vec(), [1, 3]);
                let starts = Tensor::from_data(starts, &device);
                packed_causal_attention(
                    q.clone(),
                    q.clone(),
                    v.clone(),
                    starts,
                    AttentionConfig::new(0.5),
                )
            };
            assert_close("out", at([7, 9, 5]), v.clone());
            let config = AttentionConfig::new(0.5);
            let expected = causal_attention(q.clone(), q.clone(), v.clone(), config);
            assert_close("out", at([-2, -1, 0]), expected);
        }
    }

    #[test]
    #[should_panic(expected = "packed_causal_attention: starts must be [batch, q_len]")]
    fn starts_of_another_shape_are_refused() {
        let device = devices().remove(0);
        let q = tensor::<4>(1, [1, 5, 1, 8], &device);
        let starts = starts(&[&[2, 2]], &device);
        packed_causal_attention(q.clone(), q.clone(), q, starts, AttentionConfig::new(1.0));
    }
}
