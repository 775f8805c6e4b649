//! Attention composed of Burn's operations: every head's scores at once, differentiated by Burn.

use burn_core::tensor::{Device, Int, Tensor, activation::softmax};
use burn_fused::AttentionConfig;

use crate::common::{assert_close, leaf, loss};

/// The first position of every query's sequence, `[batch, q_len]`, is in `starts` where rows are packed.
pub fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    starts: Option<Tensor<2, Int>>,
    config: AttentionConfig,
) -> Tensor<4> {
    let [_, q_len, heads, _] = q.dims();
    let [batch, kv_len, kv_heads, d] = k.dims();
    let device = q.device();
    let repeat = |x: Tensor<4>| {
        x.swap_dims(1, 2)
            .reshape([batch, kv_heads, 1, kv_len, d])
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, kv_len, d])
    };
    let mut scores = q.swap_dims(1, 2).matmul(repeat(k).transpose()) * config.scale;
    if let Some(cap) = config.softcap {
        scores = (scores / cap).tanh() * cap;
    }

    let all = [batch, heads, q_len, kv_len];
    let at = |positions: core::ops::Range<usize>, shape: [usize; 4]| {
        let positions = positions.start as i64..positions.end as i64;
        let positions = Tensor::<1, Int>::arange(positions, &device);
        positions.reshape(shape).expand(all)
    };
    let queries = at(kv_len - q_len..kv_len, [1, 1, q_len, 1]);
    let keys = at(0..kv_len, [1, 1, 1, kv_len]);
    let mut hidden = keys.clone().greater(queries.clone());
    if let Some(window) = config.window {
        let ends = keys.clone() + window as i64;
        hidden = hidden.bool_or(ends.lower_equal(queries));
    }
    if let Some(starts) = starts {
        let starts = starts.reshape([batch, 1, q_len, 1]).expand(all);
        hidden = hidden.bool_or(keys.lower(starts));
    }
    let p = softmax(scores.mask_fill(hidden, -1e30), 3);
    p.matmul(repeat(v)).swap_dims(1, 2)
}

/// The output and the gradients of q, k and v.
pub type Outputs = [Tensor<4>; 4];

/// Runs `f` on a query and keys and values of the shapes.
pub fn outputs(
    [q, kv]: [[usize; 4]; 2],
    device: &Device,
    f: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> Outputs {
    let (q, k, v) = (leaf(1, q, device), leaf(2, kv, device), leaf(3, kv, device));
    let out = f(q.clone(), k.clone(), v.clone());
    let grads = loss(out.clone()).backward();
    let [dq, dk, dv] = [q, k, v].map(|x| x.grad(&grads).unwrap());
    [out, dq, dk, dv]
}

#[track_caller]
pub fn assert_outputs_close(name: &str, actual: Outputs, expected: Outputs) {
    let names = ["out", "dq", "dk", "dv"].into_iter();
    for ((part, actual), expected) in names.zip(actual).zip(expected) {
        assert_close(&format!("{part} of {name}"), actual, expected);
    }
}
