use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::config::RmsNormConfig;
use crate::device::expect_served;
use crate::ops::FusedOps;

/// Normalizes the last dimension by its root mean square: `x / sqrt(mean(x²) + eps) * weight`, or `* (1 + weight)`
/// where `config` says so.
///
/// `x: [.., n]`, `weight: [n]`; the result has x's shape and dtype. The mean is taken in f32 (f64
/// for f64), as in Hugging Face's `LlamaRMSNorm`. The backward pass keeps `x` and one f32 a row,
/// and works out the gradient of `weight` only if it is tracked.
///
/// # Panics
/// When `weight` does not have x's last dimension.
///
/// ```
/// use burn_core::tensor::Tensor;
/// use burn_fused::RmsNormConfig;
///
/// # #[cfg(feature = "flex")] {
/// let device = burn_core::tensor::Device::flex();
/// let x = Tensor::<2>::from_floats([[3.0, 4.0]], &device);
/// let weight = Tensor::from_floats([1.0, 2.0], &device);
/// let y = burn_fused::rms_norm(x, weight, RmsNormConfig::new(0.0));
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert!((y[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
/// # }
/// ```
pub fn rms_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    config: RmsNormConfig,
) -> Tensor<D> {
    let [n] = weight.dims();
    assert!(
        D > 0 && x.dims()[D - 1] == n,
        "rms_norm: weight has {n} elements, the last dimension of x {:?} does not",
        x.dims()
    );
    expect_served("rms_norm", &x);
    Tensor::from_dispatch(<Dispatch as FusedOps>::rms_norm(
        x.dequantize().into_dispatch(),
        weight.dequantize().into_dispatch(),
        config,
    ))
}
