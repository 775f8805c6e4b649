use burn_core::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

pub use qlora_cpu::cross_entropy::IGNORED;

use crate::config::LogitsConfig;
use crate::device::expect_served;
use crate::ops::FusedOps;

/// Returns the sum of the negative log-likelihoods of `targets` under the logits that `config` makes of
/// `hidden · weightᵀ`, which are never formed whole.
///
/// `hidden: [tokens, n]`, `weight: [vocab, n]` (a head without bias), `targets: [tokens]`, each a
/// class below `vocab` or [`IGNORED`]. The result is `[1]`, f32 whatever the operands are (f64 for
/// f64): a sum over a batch does not fit f16. Divide it by the number of target tokens for the mean.
///
/// The gradients are linear in the result's gradient, so they are computed in the forward pass,
/// while a part of the logits is at hand, and scaled in the backward pass: that of `hidden` if it
/// is tracked, that of `weight` only if that is. A frozen head costs no memory but
/// `[tokens, n]`.
///
/// # Panics
/// When the shapes do not fit each other, or `config` has a scale that is no number or a bound that is no number above 0; on Flex when a target is neither a class nor
/// [`IGNORED`]. A device that runs behind the host cannot refuse: there such a target makes the
/// loss NaN.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    check("linear_cross_entropy", &hidden, &weight, &targets, config);
    Tensor::from_dispatch(<Dispatch as FusedOps>::linear_cross_entropy(
        hidden.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        targets.into_dispatch(),
        config,
    ))
}

/// Returns the negative log-likelihood of each of `targets`, `[tokens]`, 0 where it is [`IGNORED`]: the terms of
/// [`linear_cross_entropy`], whose operands these are, and f32 as it is (f64 for f64).
///
/// A gradient of each of them scales that token's row of the gradient of `hidden`, which is computed in the forward pass: a
/// frozen head costs the memory that it costs there. For a tracked `weight` the logits are made a second time.
///
/// # Panics
/// As [`linear_cross_entropy`].
pub fn token_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    check("token_cross_entropy", &hidden, &weight, &targets, config);
    Tensor::from_dispatch(<Dispatch as FusedOps>::token_cross_entropy(
        hidden.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        targets.into_dispatch(),
        config,
    ))
}

/// Checks the operands of `operation`.
pub(super) fn check(
    operation: &str,
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &Tensor<1, Int>,
    config: LogitsConfig,
) {
    let [tokens, n] = hidden.dims();
    let [vocab, weight_n] = weight.dims();
    assert_eq!(
        n, weight_n,
        "{operation}: hidden is [tokens, {n}] but weight is [{vocab}, {weight_n}]"
    );
    assert_eq!(
        targets.dims(),
        [tokens],
        "{operation}: hidden has {tokens} tokens but targets is {:?}",
        targets.dims()
    );
    assert!(
        vocab > 0,
        "{operation}: weight must have at least one class"
    );
    config.check(operation);
    expect_served(operation, hidden);
}
