//! Bound by memory: `x` is read and rewritten, in place when nobody else holds it.

use burn_core::backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    buffer::{PARALLEL, Values, cast, update},
    simd::{mul_add, vectorised},
};

pub(super) fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, inverse: bool) -> FlexTensor {
    let dtype = x.dtype();
    let [_, seq, heads, d] = x.shape().dims();
    let (cos, sin) = (Values::new(cos), Values::new(sin));
    let half = d / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    let y = update(x, |x| {
        if x.is_empty() {
            return;
        }
        let position = |(i, heads): (usize, &mut [f32])| {
            let angles = i % seq * half..(i % seq + 1) * half;
            turn(heads, &cos[angles.clone()], &sin[angles], sign);
        };
        let width = heads * d;
        if x.len() < PARALLEL {
            x.chunks_mut(width).enumerate().for_each(position);
        } else {
            let chunks = x.par_chunks_mut(width).enumerate();
            chunks
                .with_min_len(PARALLEL.div_ceil(2 * width))
                .for_each(position);
        }
    });
    cast(y, dtype)
}

vectorised! {
    /// Turns every head of a position: `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`.
    fn turn(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let sin = sin * sign;
                let (x, y) = (*a, *b);
                *a = mul_add::<FMA>(x, *cos, -(y * sin));
                *b = mul_add::<FMA>(y, *cos, x * sin);
            }
        }
    }
}
