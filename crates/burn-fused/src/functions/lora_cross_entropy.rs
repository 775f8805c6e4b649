use burn_core::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

use super::cross_entropy::check;
use crate::config::LogitsConfig;
use crate::ops::FusedOps;

/// Returns [`linear_cross_entropy`](crate::linear_cross_entropy) under the logits that `config` makes of
/// `hidden · weightᵀ + rows · factor`: that of a head with an adapter, whose scaled `x · A` are the rows and whose `B` is the factor.
///
/// `rows: [tokens, rank]`, `factor: [rank, vocab]`, both f32 where `hidden` is f16 or bf16; the other operands are those of
/// [`linear_cross_entropy`](crate::linear_cross_entropy), but that `weight` is a constant, whatever it asks for. Neither the
/// logits nor the product of the factors is formed whole.
///
/// The gradients of `hidden`, `rows` and `factor` are computed in the forward pass.
///
/// # Panics
/// As [`linear_cross_entropy`](crate::linear_cross_entropy), and when rows or factor do not fit.
pub fn lora_linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    [rows, factor]: [Tensor<2>; 2],
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    const NAME: &str = "lora_linear_cross_entropy";
    check(NAME, &hidden, &weight, &targets, config);
    check_factors(NAME, &hidden, &weight, &rows, &factor);
    Tensor::from_dispatch(<Dispatch as FusedOps>::lora_linear_cross_entropy(
        hidden.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        rows.into_dispatch(),
        factor.into_dispatch(),
        targets.into_dispatch(),
        config,
    ))
}

/// Returns the terms of [`lora_linear_cross_entropy`], `[tokens]`, as [`token_cross_entropy`](crate::token_cross_entropy) does
/// those of a head alone.
///
/// The gradients of `hidden` and `rows` are computed in the forward pass; for a tracked `factor` the logits are made a second time.
///
/// # Panics
/// As [`lora_linear_cross_entropy`].
pub fn lora_token_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    [rows, factor]: [Tensor<2>; 2],
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    const NAME: &str = "lora_token_cross_entropy";
    check(NAME, &hidden, &weight, &targets, config);
    check_factors(NAME, &hidden, &weight, &rows, &factor);
    Tensor::from_dispatch(<Dispatch as FusedOps>::lora_token_cross_entropy(
        hidden.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        rows.into_dispatch(),
        factor.into_dispatch(),
        targets.into_dispatch(),
        config,
    ))
}

/// Checks the low-rank operands of `operation`.
fn check_factors(
    operation: &str,
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    rows: &Tensor<2>,
    factor: &Tensor<2>,
) {
    let [tokens, vocab] = [hidden.dims()[0], weight.dims()[0]];
    let (rows, factor) = (rows.dims(), factor.dims());
    assert!(
        rows[0] == tokens && factor[1] == vocab && rows[1] == factor[0] && rows[1] > 0,
        "{operation}: rows {rows:?} and factor {factor:?} do not fit {tokens} tokens and {vocab} classes"
    );
}
