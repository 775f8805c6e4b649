//! On Flex a result is the same bits whenever and on however many threads it is computed.

#![cfg(feature = "flex")]

use burn_core::tensor::{Device, Tensor};
use burn_fused::{
    LogitsConfig, add_rms_norm, causal_attention, linear_cross_entropy, rms_norm, rope, swiglu,
};
use qlora_test_support::values;

use crate::{
    common::{leaf, loss, tensor},
    cross_entropy::targets,
};

/// A loss through every operation, and the gradients of everything, as bits.
fn everything() -> Vec<u32> {
    let device = Device::flex().autodiff();
    let (batch, seq, heads, kv_heads, d) = (2, 150, 6, 2, 16);
    let x = leaf::<3>(1, [batch, seq, heads * d], &device);
    let weight = leaf(2, [heads * d], &device);
    let k = leaf(3, [batch, seq, kv_heads, d], &device);
    let v = leaf(4, [batch, seq, kv_heads, d], &device);
    let head = leaf(5, [1300, heads * d], &device);
    let angles = tensor::<2>(6, [seq, d / 2], &device);

    let y = rms_norm(x.clone(), weight.clone(), 1e-5);
    let (sum, y) = add_rms_norm(y, x.clone(), weight.clone(), 1e-5);
    let y = swiglu(sum, y);
    let q: Tensor<4> = y.reshape([batch, seq, heads, d]);
    let q = rope(q, angles.clone().cos(), angles.sin());
    let out = causal_attention(q, k.clone(), v.clone(), 0.3);
    let hidden: Tensor<2> = out.clone().reshape([batch * seq, heads * d]);
    let targets = targets(batch * seq, 1300, 5, &device);
    let config = LogitsConfig::default()
        .with_scale(0.7)
        .with_softcap(Some(5.0));
    let total = linear_cross_entropy(hidden, head.clone(), targets, config) + loss(out);
    let grads = total.clone().backward();

    [
        values(total),
        values(x.grad(&grads).unwrap()),
        values(weight.grad(&grads).unwrap()),
        values(k.grad(&grads).unwrap()),
        values(v.grad(&grads).unwrap()),
        values(head.grad(&grads).unwrap()),
    ]
    .concat()
    .into_iter()
    .map(f32::to_bits)
    .collect()
}

#[test]
fn twice_is_the_same() {
    assert_eq!(everything(), everything());
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(everything)
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}
