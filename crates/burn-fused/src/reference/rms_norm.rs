use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::Shape;

use super::precision::{cast, widen};
use crate::config::RmsNormConfig;

pub(crate) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    config: RmsNormConfig,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = x.dtype();
    let x = widen::<B>(x);
    let last = x.rank() - 1;
    let weight = row::<B>(weight, &x, config);

    let mean_square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), last);
    let inv_rms = B::float_recip(B::float_sqrt(B::float_add_scalar(
        mean_square,
        config.eps.into(),
    )));
    let y = B::float_mul(B::float_mul(x, inv_rms.clone()), weight);
    (cast::<B>(y, dtype), inv_rms)
}

/// Returns the sum, the normalized sum and `1 / rms`.
pub(crate) fn add_forward<B: Backend>(
    x: FloatTensor<B>,
    residual: FloatTensor<B>,
    weight: FloatTensor<B>,
    config: RmsNormConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let sum = B::float_add(x, residual);
    let (y, inv_rms) = forward::<B>(sum.clone(), weight, config);
    (sum, y, inv_rms)
}

pub(crate) fn backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    inv_rms: FloatTensor<B>,
    grad: FloatTensor<B>,
    config: RmsNormConfig,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let dx = wide_backward::<B>(x, weight, inv_rms, grad, config);
    cast::<B>(dx, dtype)
}

/// Returns [`backward`] plus what comes to the sum from elsewhere, rounded once.
pub(crate) fn add_backward<B: Backend>(
    sum: FloatTensor<B>,
    weight: FloatTensor<B>,
    inv_rms: FloatTensor<B>,
    grad_sum: FloatTensor<B>,
    grad: FloatTensor<B>,
    config: RmsNormConfig,
) -> FloatTensor<B> {
    let dtype = sum.dtype();
    let through_norm = wide_backward::<B>(sum, weight, inv_rms, grad, config);
    let grad_sum = cast::<B>(grad_sum, through_norm.dtype());
    cast::<B>(B::float_add(through_norm, grad_sum), dtype)
}

/// Returns `dx = r · (g·w − x · r² · mean(g·w·x))` with `r = 1 / rms`, in the dtype it is computed in.
fn wide_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    inv_rms: FloatTensor<B>,
    grad: FloatTensor<B>,
    config: RmsNormConfig,
) -> FloatTensor<B> {
    let x = widen::<B>(x);
    let last = x.rank() - 1;
    let weight = row::<B>(weight, &x, config);

    let grad = B::float_mul(widen::<B>(grad), weight);
    let mean = B::float_mean_dim(B::float_mul(grad.clone(), x.clone()), last);
    let factor = B::float_mul(mean, B::float_mul(inv_rms.clone(), inv_rms.clone()));
    let dx = B::float_sub(grad, B::float_mul(x, factor));
    B::float_mul(dx, inv_rms)
}

/// Returns `dw = Σ_rows g · x · r`.
pub(crate) fn backward_weight<B: Backend>(
    x: FloatTensor<B>,
    inv_rms: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let shape = x.shape();
    let n = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / n.max(1);

    let product = B::float_mul(widen::<B>(grad), B::float_mul(widen::<B>(x), inv_rms));
    let product = B::float_reshape(product, Shape::new([rows, n]));
    let sum = B::float_reshape(B::float_sum_dim(product, 0), Shape::new([n]));
    cast::<B>(sum, dtype)
}

/// Returns the factors `[n]` as `[1, .., 1, n]`, to be broadcast over `x`.
fn row<B: Backend>(
    weight: FloatTensor<B>,
    x: &FloatTensor<B>,
    config: RmsNormConfig,
) -> FloatTensor<B> {
    let mut weight = cast::<B>(weight, x.dtype());
    if config.unit_offset {
        weight = B::float_add_scalar(weight, 1.0.into());
    }
    let mut shape = vec![1; x.rank()];
    shape[x.rank() - 1] = weight.shape()[0];
    B::float_reshape(weight, Shape::from(shape))
}
