//! The cross-entropy of a head with a low-rank product beside its own, over the chunks of tokens of the head alone.
//!
//! Operands are `[hidden, weight, rows, factor]`.

use burn_core::backend::{
    TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn_core::tensor::{DType, Shape};

use super::cross_entropy::{Head, join, rows_of};
use super::precision::cast;
use crate::config::LogitsConfig;
use crate::ops::FusedOps;

/// Returns the sum of [`losses`], `[1]`.
pub(crate) fn loss<B: FusedOps>(
    operands: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    B::float_sum(losses::<B>(operands, targets, config))
}

/// Returns the loss of every token.
pub(crate) fn losses<B: FusedOps>(
    [hidden, weight, rows, factor]: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let head = Head::<B>::new(hidden, weight, targets, config).with_low_rank([rows, factor]);
    head.joined(head.chunks().map(|chunk| chunk.losses()).collect())
}

/// Returns [`losses`], and in each row the gradients of `hidden` and `rows` of the token's own loss.
pub(crate) fn grad_tokens<B: FusedOps>(
    operands: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (losses, dhidden, drows, _) = gradients::<B>(operands, targets, None, config);
    (losses, dhidden, drows)
}

/// Returns the sum of [`losses`], and the gradients of `hidden`, `rows` and `factor`.
pub(crate) fn grads<B: FusedOps>(
    operands: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
) {
    let rows = operands[2].clone();
    let (losses, dhidden, drows, dfactor) = gradients::<B>(operands, targets, Some(rows), config);
    (B::float_sum(losses), dhidden, drows, dfactor)
}

/// Returns the gradient of `factor` from that of every token's loss, `[tokens]`.
pub(crate) fn grad_factor<B: FusedOps>(
    [hidden, weight, rows, factor]: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    grad: FloatTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let (shape, dtype) = (factor.shape(), factor.dtype());
    let grad = cast::<B>(grad, rows.dtype());
    let grad = B::float_reshape(grad, Shape::new([rows.shape()[0], 1]));
    // The gradient is linear in every token's row, so a row takes the weight of its token.
    let weighed = B::float_mul(rows.clone(), grad);
    let head = Head::<B>::new(hidden, weight, targets, config).with_low_rank([rows, factor]);
    let mut dfactor = None;
    for chunk in head.chunks() {
        let tokens = chunk.tokens.clone();
        let (_, dproducts) = chunk.losses_grad();
        let weighed = rows_of::<B>(&weighed, tokens);
        dfactor = Some(with_chunk::<B>(dfactor, weighed, dproducts));
    }
    or_zeros::<B>(dfactor, shape, dtype, &head)
}

fn gradients<B: FusedOps>(
    [hidden, weight, rows, factor]: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    of_factor: Option<FloatTensor<B>>,
    config: LogitsConfig,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
) {
    let (empty, no_rows) = (hidden.clone(), rows.clone());
    let (shape, dtype) = (factor.shape(), factor.dtype());
    let head =
        Head::<B>::new(hidden, weight, targets, config).with_low_rank([rows, factor.clone()]);
    let back = B::float_swap_dims(cast::<B>(factor, head.weight.dtype()), 0, 1);
    let (mut losses, mut dhidden, mut drows) = (Vec::new(), Vec::new(), Vec::new());
    let mut dfactor = None;
    for chunk in head.chunks() {
        let tokens = chunk.tokens.clone();
        let (loss, dproducts) = chunk.losses_grad();
        losses.push(loss);
        dhidden.push(head.product(dproducts.clone(), head.weight.clone()));
        drows.push(B::matmul(dproducts.clone(), back.clone()));
        if let Some(rows) = &of_factor {
            dfactor = Some(with_chunk::<B>(
                dfactor,
                rows_of::<B>(rows, tokens),
                dproducts,
            ));
        }
    }
    let dhidden = join::<B>(dhidden).unwrap_or_else(|| empty.clone());
    let drows = join::<B>(drows).unwrap_or_else(|| no_rows.clone());
    (
        head.joined(losses),
        cast::<B>(dhidden, empty.dtype()),
        cast::<B>(drows, no_rows.dtype()),
        or_zeros::<B>(dfactor, shape, dtype, &head),
    )
}

/// Returns the gradient of the factor so far with that of a chunk.
fn with_chunk<B: FusedOps>(
    dfactor: Option<FloatTensor<B>>,
    rows: FloatTensor<B>,
    dproducts: FloatTensor<B>,
) -> FloatTensor<B> {
    let rows = cast::<B>(rows, dproducts.dtype());
    let part = B::matmul(B::float_swap_dims(rows, 0, 1), dproducts);
    match dfactor {
        Some(dfactor) => B::float_add(dfactor, part),
        None => part,
    }
}

/// Returns the gradient of the factor in its dtype; zeros where there was no token.
fn or_zeros<B: FusedOps>(
    dfactor: Option<FloatTensor<B>>,
    shape: Shape,
    dtype: DType,
    head: &Head<B>,
) -> FloatTensor<B> {
    match dfactor {
        Some(dfactor) => cast::<B>(dfactor, dtype),
        None => B::float_zeros(shape, &head.weight.device(), dtype.into()),
    }
}
