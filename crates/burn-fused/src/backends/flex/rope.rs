//! Bound by memory: `x` is read and rewritten, in place when nobody else holds it.

use burn_core::backend::TensorMetadata;
use burn_core::tensor::{DType, bf16, f16};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    buffer::{PARALLEL, Values, update},
    number::{Number, with_number},
    simd::{mul_add, vectorised},
};

pub(super) fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, inverse: bool) -> FlexTensor {
    with_number!(x.dtype(), E => rotate_as::<E>(x, cos, sin, inverse))
}

fn rotate_as<E: Number>(
    x: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    inverse: bool,
) -> FlexTensor {
    let [_, _, heads, d] = x.shape().dims();
    let [rows, _] = cos.shape().dims();
    let (cos, sin) = (Values::new(cos), Values::new(sin));
    let half = d / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    update(x, |x: &mut [E]| {
        if x.is_empty() {
            return;
        }
        let position = |scratch: &mut Vec<f32>, (i, heads): (usize, &mut [E])| {
            let angles = i % rows * half..(i % rows + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            E::modify(heads, scratch, |heads| turn(heads, cos, sin, sign));
        };
        let width = heads * d;
        if x.len() < PARALLEL {
            let mut scratch = Vec::new();
            let positions = x.chunks_mut(width).enumerate();
            positions.for_each(|heads| position(&mut scratch, heads));
        } else {
            let positions = x.par_chunks_mut(width).enumerate();
            positions
                .with_min_len(PARALLEL.div_ceil(2 * width))
                .for_each_init(Vec::new, position);
        }
    })
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
