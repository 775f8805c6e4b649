use burn_core::backend::{Backend, Slice, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::Shape;

use super::precision::{cast, widen};

pub(crate) fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    inverse: bool,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = widen::<B>(x);
    let [rows, half] = cos.shape().dims();
    let seq = x.shape()[1];
    let batches = rows / seq.max(1);
    let angles = |t| B::float_reshape(cast::<B>(t, x.dtype()), Shape::new([batches, seq, 1, half]));
    let (cos, sin) = (angles(cos), angles(sin));
    let sin = if inverse { B::float_neg(sin) } else { sin };

    let part = |from: usize, to: usize| {
        let mut slices: Vec<Slice> = x.shape().iter().map(|&n| Slice::from(0..n)).collect();
        slices[3] = Slice::from(from..to);
        B::float_slice(x.clone(), &slices)
    };
    let (turning, width) = (2 * half, x.shape()[3]);
    let (low, high) = (part(0, half), part(half, turning));
    let rotated_low = B::float_sub(
        B::float_mul(low.clone(), cos.clone()),
        B::float_mul(high.clone(), sin.clone()),
    );
    let rotated_high = B::float_add(B::float_mul(high, cos), B::float_mul(low, sin));
    let mut parts = vec![rotated_low, rotated_high];
    if turning < width {
        parts.push(part(turning, width));
    }
    cast::<B>(B::float_cat(parts, 3), dtype)
}
