use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::around::Prologue;
use crate::device::expect_served;
use crate::ops::FusedOps;

/// Returns `x · weightᵀ`, with `x` through the `prologue` before: as one operation for a few rows where a device has that, with no
/// rounding in between.
///
/// `x: [m, k]`, `weight: [n, k]`, of one dtype, which the result has too. Differentiable, as [`matmul`](crate::matmul) and the
/// prologue one by one; f32 is computed in f32 as there.
///
/// # Panics
/// When the last dimensions differ, and as the prologue.
pub fn linear(x: Tensor<2>, prologue: Prologue, weight: Tensor<2>) -> Tensor<2> {
    let [[m, k], [n, weight_k]] = [x.dims(), weight.dims()];
    assert_eq!(
        k, weight_k,
        "linear: [{m}, {k}] does not go through [{n}, {weight_k}]"
    );
    if let Prologue::RmsNorm { weight, .. } = &prologue {
        assert_eq!([k], weight.dims(), "linear: the norm has the width of x");
    }
    expect_served("linear", &x);
    Tensor::from_dispatch(<Dispatch as FusedOps>::linear(
        x.dequantize().into_dispatch(),
        prologue.into(),
        weight.dequantize().into_dispatch(),
    ))
}
