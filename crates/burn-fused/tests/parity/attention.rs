use burn_core::tensor::{Bool, Device, Int, Tensor, activation::softmax};
use burn_fused::causal_attention;

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
    let (actual, actual_grads) = run(&causal_attention);
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
        let grads = loss(causal_attention(q.clone(), k.clone(), v.clone(), 0.4)).backward();
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
            let actual = causal_attention(q.clone(), k.clone(), v.clone(), 0.3);
            assert_close("out", actual, reference(q.clone(), k, v, 0.3));
        }
        let transposed = tensor::<4>(1, [2, 8, 6, 3], &device).swap_dims(1, 3);
        let actual = causal_attention(transposed.clone(), cache(2), cache(3), 0.3);
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
    causal_attention(tensor(1, [1, 5, 1, 8], &device), k.clone(), k, 1.0);
}
