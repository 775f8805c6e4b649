use burn_core::tensor::Device;
use burn_fused::{AttentionConfig, causal_attention};

mod composed;
mod hidden;
mod packed;
mod settings;

use crate::common::{assert_close, devices, leaf, loss, tensor};
use composed::{Outputs, assert_outputs_close, attend, outputs};

/// `batch, q_len, kv_len, heads, kv_heads, head_dim`.
type Sizes = [usize; 6];

/// Compares output and gradients with the composed form on the first device: Burn 0.22.1 makes a gradient of that form
/// wrong on wgpu, at 133 keys.
#[track_caller]
fn check(sizes: Sizes, config: AttentionConfig, device: &Device) {
    let run = |fused: bool, device: &Device| -> Outputs {
        let [batch, q_len, kv_len, heads, kv_heads, d] = sizes;
        let shapes = [[batch, q_len, heads, d], [batch, kv_len, kv_heads, d]];
        outputs(shapes, &device.clone().autodiff(), |q, k, v| match fused {
            true => causal_attention(q, k, v, config),
            false => attend(q, k, v, None, config),
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
    for device in devices() {
        let sizes = [4, 1100, 1100, 4, 2, 8];
        check(sizes, plain(sizes, 3.0), &device);
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
        let grads = loss(attend(q, k, v.clone(), None, AttentionConfig::new(0.4))).backward();
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
            assert_close("out", actual, attend(q.clone(), k, v, None, config));
        }
        let transposed = tensor::<4>(1, [2, 8, 6, 3], &device).swap_dims(1, 3);
        let config = AttentionConfig::new(0.3);
        let actual = causal_attention(transposed.clone(), cache(2), cache(3), config);
        assert_close(
            "out",
            actual,
            attend(transposed, cache(2), cache(3), None, config),
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
