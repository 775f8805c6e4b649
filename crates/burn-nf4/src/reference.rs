//! The default bodies of [`BlockwiseOps`], for backends without an implementation of their own: quantizing, decoding and products
//! through the host ([`tiles`]), and the LoRA layer, composed of [`BlockwiseOps::blockwise_matmul`] and a backend's own products.

mod tiles;

use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::{DType, Shape};
use burn_fused::{EpiloguePrimitive, ProloguePrimitive};
use nf4::Direction;

use crate::ops::BlockwiseOps;
use crate::primitive::{BlockwisePrimitive, GradientsPrimitive, LayerPrimitive, LayersPrimitive};

pub(crate) use tiles::{dequantize, matmul, quantize};

pub(crate) fn lora_matmul<B: BlockwiseOps>(
    x: FloatTensor<B>,
    weight: BlockwisePrimitive<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let y = B::blockwise_matmul(x.clone(), weight, Direction::Forward);
    let xa = B::float_matmul(rows::<B>(x, a.dtype()), a);
    let delta = B::float_matmul(B::float_mul_scalar(xa, scale.into()), b);
    add_like::<B>(y, delta)
}

pub(crate) fn layers<B: BlockwiseOps>(
    x: FloatTensor<B>,
    layers: LayersPrimitive<B>,
) -> Vec<FloatTensor<B>> {
    let layers = layers.0.into_iter();
    layers
        .map(|layer| match layer {
            LayerPrimitive::Base { weight } => {
                B::blockwise_matmul(x.clone(), weight, Direction::Forward)
            }
            LayerPrimitive::Adapted {
                weight,
                a,
                b,
                scale,
            } => B::blockwise_lora_matmul(x.clone(), weight, a, b, scale),
        })
        .collect()
}

pub(crate) fn fused_layers<B: BlockwiseOps>(
    x: FloatTensor<B>,
    prologue: ProloguePrimitive<B>,
    layers: LayersPrimitive<B>,
    epilogue: EpiloguePrimitive<B>,
) -> Vec<FloatTensor<B>> {
    epilogue.apply(B::blockwise_layers(prologue.apply(x), layers))
}

pub(crate) fn layers_backward<B: BlockwiseOps>(
    x: FloatTensor<B>,
    layers: LayersPrimitive<B>,
    grads: GradientsPrimitive<B>,
    wants_dx: bool,
) -> Vec<FloatTensor<B>> {
    let mut dx_sum: Option<FloatTensor<B>> = None;
    let mut add = |dx| {
        dx_sum = Some(match dx_sum.take() {
            Some(sum) => B::float_add(sum, dx),
            None => dx,
        });
    };
    let mut factors = Vec::new();
    for (layer, grad) in layers.0.into_iter().zip(grads.0) {
        match layer {
            LayerPrimitive::Base { weight } if wants_dx => {
                add(B::blockwise_matmul(grad, weight, Direction::Transposed));
            }
            LayerPrimitive::Base { .. } => {}
            LayerPrimitive::Adapted {
                weight,
                a,
                b,
                scale,
            } => {
                let x = x.clone();
                let (da, db) = if wants_dx {
                    let (dx, da, db) = B::blockwise_lora_backward(x, weight, a, b, scale, grad);
                    add(dx);
                    (da, db)
                } else {
                    B::blockwise_lora_backward_factors(x, weight, a, b, scale, grad)
                };
                factors.extend([da, db]);
            }
        }
    }
    dx_sum.into_iter().chain(factors).collect()
}

pub(crate) fn lora_backward<B: BlockwiseOps>(
    x: FloatTensor<B>,
    weight: BlockwisePrimitive<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dxa = xa_gradient::<B>(&grad, &b, scale);
    let dx = B::blockwise_matmul(grad.clone(), weight, Direction::Transposed);
    let dx = add_like::<B>(
        dx,
        B::float_matmul(dxa.clone(), B::float_transpose(a.clone())),
    );
    let (da, db) = factor_gradients::<B>(x, a, scale, grad, dxa);
    (dx, da, db)
}

pub(crate) fn lora_backward_factors<B: BlockwiseOps>(
    x: FloatTensor<B>,
    _: BlockwisePrimitive<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dxa = xa_gradient::<B>(&grad, &b, scale);
    factor_gradients::<B>(x, a, scale, grad, dxa)
}

/// Returns the bytes that [`lora_backward`] takes beside operands and results, for `m` rows, a matrix whose `widths` are
/// `[in_features, out_features]`, and `x` in `dtype_bytes`: the gradient of `x · A` and, one after another, the gradient in f32;
/// the branch's part of `dx` in f32 and in half precision; `x` and the gradient in f32, and `x · A`.
#[cfg(any(not(feature = "cubecl-backend"), feature = "fusion"))]
pub(crate) fn backward_workspace_bytes(
    m: u128,
    [in_features, out_features]: [u128; 2],
    rank: u128,
    dtype_bytes: u128,
) -> u128 {
    const F32: u128 = 4;
    let is_half = dtype_bytes < F32;
    let widened = |elements| if is_half { F32 * elements } else { 0 };
    let narrowed = |elements| if is_half { dtype_bytes * elements } else { 0 };
    let xa = F32 * m * rank;
    let grad = widened(m * out_features);
    let delta = F32 * m * in_features + narrowed(m * in_features);
    let factors = widened(m * in_features) + grad + xa;
    xa + grad.max(delta).max(factors)
}

/// Returns `scale · grad · Bᵀ`, the gradient of `x · A`, `[m, rank]`.
fn xa_gradient<B: BlockwiseOps>(
    grad: &FloatTensor<B>,
    b: &FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let grad = rows::<B>(grad.clone(), b.dtype());
    let dxa = B::float_matmul(grad, B::float_transpose(b.clone()));
    B::float_mul_scalar(dxa, scale.into())
}

/// Returns `xᵀ · dxa` and `(scale · x · A)ᵀ · grad`.
fn factor_gradients<B: BlockwiseOps>(
    x: FloatTensor<B>,
    a: FloatTensor<B>,
    scale: f64,
    grad: FloatTensor<B>,
    dxa: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let x = rows::<B>(x, a.dtype());
    let grad = rows::<B>(grad, a.dtype());
    let da = B::float_matmul(B::float_transpose(x.clone()), dxa);
    let xa = B::float_mul_scalar(B::float_matmul(x, a), scale.into());
    (da, B::float_matmul(B::float_transpose(xa), grad))
}

/// Returns the tensor as a matrix of its rows, in `dtype`.
fn rows<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    let shape = tensor.shape();
    let last = shape[shape.num_dims() - 1];
    let m = shape.iter().rev().skip(1).product();
    let matrix = B::float_reshape(tensor, Shape::new([m, last]));
    cast::<B>(matrix, dtype)
}

/// Returns `y` plus a matrix of as many values.
fn add_like<B: BlockwiseOps>(y: FloatTensor<B>, delta: FloatTensor<B>) -> FloatTensor<B> {
    let delta = B::float_reshape(cast::<B>(delta, y.dtype()), y.shape());
    B::float_add(y, delta)
}

fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        B::float_cast(tensor, dtype.into())
    }
}

#[cfg(all(test, any(not(feature = "cubecl-backend"), feature = "fusion")))]
mod tests {
    use super::*;

    #[test]
    fn a_layer_in_half_precision_widens_its_operands() {
        let (m, widths, rank) = (512, [4096, 11008], 16);
        let single = backward_workspace_bytes(m, widths, rank, 4);
        assert_eq!(single, 4 * m * (rank + widths[0]));
        let half = backward_workspace_bytes(m, widths, rank, 2);
        assert_eq!(half, 4 * m * (widths[0] + widths[1] + 2 * rank));
    }
}
