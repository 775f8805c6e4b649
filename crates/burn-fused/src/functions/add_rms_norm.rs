use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::config::RmsNormConfig;
use crate::device::expect_served;
use crate::ops::FusedOps;

/// Returns the next value of a residual stream and its root-mean-square normalization:
/// `(sum, sum / sqrt(mean(sum²) + eps) * weight)` with `sum = residual + x`.
///
/// The factor is `1 + weight` where `config` says so.
///
/// `x` and `residual`: `[.., n]`, `weight: [n]`; both results have x's shape and dtype, and what is normalized
/// is the sum in that dtype. The backward pass keeps the sum and one f32 a row. It is one pass too: the
/// gradient of `x`, which is also that of `residual`, is made at once of those of both results.
///
/// # Panics
/// When shape or dtype of `x` and `residual` differ or `weight` does not have their last dimension.
///
/// ```
/// use burn_core::tensor::Tensor;
/// use burn_fused::RmsNormConfig;
///
/// # #[cfg(feature = "flex")] {
/// let device = burn_core::tensor::Device::flex();
/// let [x, residual] = [[[1.0, 3.0]], [[2.0, 1.0]]].map(|x| Tensor::<2>::from_floats(x, &device));
/// let weight = Tensor::from_floats([1.0, 2.0], &device);
/// let (sum, y) = burn_fused::add_rms_norm(x, residual, weight, RmsNormConfig::new(0.0));
/// assert_eq!(sum.into_data().try_into_vec::<f32>().unwrap(), [3.0, 4.0]);
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert!((y[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
/// # }
/// ```
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    weight: Tensor<1>,
    config: RmsNormConfig,
) -> (Tensor<D>, Tensor<D>) {
    assert_eq!(
        (x.dims(), x.dtype()),
        (residual.dims(), residual.dtype()),
        "add_rms_norm: x and residual must have one shape and dtype"
    );
    check_weight("add_rms_norm", &x, &weight);
    expect_served("add_rms_norm", &x);
    let (sum, y) = <Dispatch as FusedOps>::add_rms_norm(
        x.dequantize().into_dispatch(),
        residual.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        config,
    );
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(y))
}

/// Computes [`add_rms_norm`] where nothing is to be added: `x` as it goes on, and its normalization.
///
/// It differs from [`rms_norm`](crate::rms_norm) of a clone in the backward pass, where the gradients of
/// both results are added as the norm's is made.
///
/// # Panics
/// When `weight` does not have x's last dimension.
pub fn residual_rms_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    config: RmsNormConfig,
) -> (Tensor<D>, Tensor<D>) {
    check_weight("residual_rms_norm", &x, &weight);
    expect_served("residual_rms_norm", &x);
    let (x, y) = <Dispatch as FusedOps>::residual_rms_norm(
        x.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        config,
    );
    (Tensor::from_dispatch(x), Tensor::from_dispatch(y))
}

fn check_weight<const D: usize>(name: &str, x: &Tensor<D>, weight: &Tensor<1>) {
    let [n] = weight.dims();
    assert!(
        D > 0 && x.dims()[D - 1] == n,
        "{name}: weight has {n} elements, the last dimension of x {:?} does not",
        x.dims()
    );
}
