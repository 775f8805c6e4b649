use burn_core::tensor::{Device, Tensor};
use burn_fused::{AttentionConfig, causal_attention};

mod cached;
mod composed;
mod hidden;
mod packed;
mod settings;

use crate::common::{assert_close, devices, fast_devices, leaf, loss, tensor};
use composed::{Outputs, assert_outputs_close, attend, outputs};

/// `batch, q_len, kv_len, heads, kv_heads, head_dim`.
type Sizes = [usize; 6];

/// Attention, or its composed form.
fn attended(
    fused: bool,
    (q, k, v): (Tensor<4>, Tensor<4>, Tensor<4>),
    config: AttentionConfig,
) -> Tensor<4> {
    match fused {
        true => causal_attention(q, k, v, config),
        false => attend(q, k, v, None, config),
    }
}

/// Compares output and gradients with the composed form on the first device: Burn 0.22.1 makes a gradient of that form
/// wrong on wgpu, at 133 keys, and multiplies in TF32 on CUDA.
#[track_caller]
fn check(sizes: Sizes, config: AttentionConfig, device: &Device) {
    let run = |fused: bool, device: &Device| -> Outputs {
        let [batch, q_len, kv_len, heads, kv_heads, d] = sizes;
        let shapes = [[batch, q_len, heads, d], [batch, kv_len, kv_heads, d]];
        outputs(shapes, &device.clone().autodiff(), |q, k, v| {
            attended(fused, (q, k, v), config)
        })
    };
    let name = format!("{sizes:?} {config:?} on {device:?}");
    let expected = run(false, &devices().remove(0));
    assert_outputs_close(&name, run(true, device), expected);
}

/// Scores of order `gain`.
fn plain(sizes: Sizes, gain: f64) -> AttentionConfig {
    AttentionConfig::new(gain / (sizes[5] as f64).sqrt())
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
            check(sizes, plain(sizes, 3.0), &device);
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
            check(sizes, plain(sizes, 3.0), &device);
        }
    }
}

/// More keys than a tile holds: the softmax is carried from tile to tile, with scores that grow
/// so far that the carried maximum moves.
#[test]
fn rows_longer_than_a_tile_equal_the_composed_form() {
    for device in devices() {
        for (sizes, gain) in [
            ([1, 300, 700, 3, 1, 16], 30.0),
            ([1, 1, 1100, 4, 2, 32], 3.0),
        ] {
            check(sizes, plain(sizes, gain), &device);
        }
    }
}

/// More scores than the default body forms at a time.
#[test]
fn many_pairs_equal_the_composed_form() {
    for device in fast_devices() {
        let sizes = [4, 1100, 1100, 4, 2, 8];
        check(sizes, plain(sizes, 3.0), &device);
    }
}

#[test]
fn each_operand_may_be_frozen() {
    for device in devices() {
        let run = |fused: bool, device: &Device| {
            let device = device.clone().autodiff();
            let q = tensor::<4>(1, [1, 6, 4, 8], &device);
            let k = tensor::<4>(2, [1, 6, 2, 8], &device);
            let v = leaf(3, [1, 6, 2, 8], &device);
            let operands = (q.clone(), k.clone(), v.clone());
            let grads = loss(attended(fused, operands, AttentionConfig::new(0.4))).backward();
            assert!(q.grad(&grads).is_none() && k.grad(&grads).is_none());
            v.grad(&grads).unwrap()
        };
        let expected = run(false, &devices().remove(0));
        assert_close("dv", run(true, &device), expected);
    }
}

/// A cache is longer than what is in it, and its heads may come before its positions.
#[test]
fn keys_may_be_views_of_a_cache() {
    for device in devices() {
        let run = |fused: bool, device: &Device| {
            let q = tensor::<4>(1, [2, 3, 6, 8], device);
            let transposed = tensor::<4>(1, [2, 8, 6, 3], device).swap_dims(1, 3);
            let cache = |seed| tensor::<4>(seed, [2, 50, 3, 8], device).narrow(1, 0, 20);
            let by_head = |seed| tensor::<4>(seed, [2, 3, 20, 8], device).swap_dims(1, 2);
            [
                (q.clone(), cache(2), cache(3)),
                (q, by_head(2), by_head(3)),
                (transposed, cache(2), cache(3)),
            ]
            .map(|operands| attended(fused, operands, AttentionConfig::new(0.3)))
        };
        let expected = run(false, &devices().remove(0));
        for (actual, expected) in run(true, &device).into_iter().zip(expected) {
            assert_close("out", actual, expected);
        }
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
