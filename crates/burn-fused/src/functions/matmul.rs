use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::device::expect_served;
use crate::ops::FusedOps;

/// Returns `lhs · rhs`, the product of two matrices, which for f32 is computed in f32 on every device.
///
/// `lhs: [m, k]`, `rhs: [k, n]`, of one dtype, which the result has too. Burn's own product gives f32 to the tensor cores of
/// an NVIDIA device as TF32, with 10 bits of mantissa; elsewhere, and in other dtypes, this one is Burn's. With the feature
/// `fusion` it is Burn's everywhere. The backward pass computes as the forward one.
///
/// # Panics
/// When the inner dimensions differ.
pub fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let [[m, k], [rhs_k, n]] = [lhs.dims(), rhs.dims()];
    assert_eq!(
        k, rhs_k,
        "matmul: [{m}, {k}] and [{rhs_k}, {n}] do not multiply"
    );
    expect_served("matmul", &lhs);
    Tensor::from_dispatch(<Dispatch as FusedOps>::matmul(
        lhs.dequantize().into_dispatch(),
        rhs.dequantize().into_dispatch(),
    ))
}
