//! Bound by memory: forward reads two and writes one, backward reads three and rewrites two of
//! them. The sigmoid is computed again, not kept.

use burn_flex::FlexTensor;
use core::mem::MaybeUninit;
use rayon::prelude::*;

use super::{
    buffer::{PARALLEL, Values, cast, create, update, written},
    simd::{exp, mul_add, vectorised},
};

/// Elements a thread takes at a time: three operands of 64 KiB stay in the second-level cache.
const CHUNK: usize = 1 << 14;

pub(super) fn forward(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let dtype = gate.dtype();
    let shape = gate.layout().shape().clone();
    let (gate, up) = (Values::new(gate), Values::new(up));
    // SAFETY: the chunks make up the whole, and `activate` writes every element of its chunk.
    let y = unsafe {
        written(gate.len(), |y| {
            let chunk = |(i, y): (usize, &mut [MaybeUninit<f32>])| {
                let range = i * CHUNK..i * CHUNK + y.len();
                activate(&gate[range.clone()], &up[range], y);
            };
            if y.len() < PARALLEL {
                y.chunks_mut(CHUNK).enumerate().for_each(chunk);
            } else {
                y.par_chunks_mut(CHUNK).enumerate().for_each(chunk);
            }
        })
    };
    cast(create(shape, y), dtype)
}

pub(super) fn backward(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (gate_dtype, up_dtype) = (gate.dtype(), up.dtype());
    let up = Values::new(up);
    let mut dup = None;
    let dgate = update(gate, |gate| {
        dup = Some(update(grad, |grad| {
            let chunk = |(i, (gate, grad)): (usize, (&mut [f32], &mut [f32]))| {
                deactivate(gate, &up[i * CHUNK..][..gate.len()], grad);
            };
            if gate.len() < PARALLEL {
                let chunks = gate.chunks_mut(CHUNK).zip(grad.chunks_mut(CHUNK));
                chunks.enumerate().for_each(chunk);
            } else {
                let chunks = gate.par_chunks_mut(CHUNK).zip(grad.par_chunks_mut(CHUNK));
                chunks.enumerate().for_each(chunk);
            }
        }));
    });
    let dup = dup.expect("the gradient was computed");
    (cast(dgate, gate_dtype), cast(dup, up_dtype))
}

vectorised! {
    fn activate(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            y.write(gate / (1.0 + exp::<FMA>(-gate)) * up);
        }
    }

    /// `gate` becomes its gradient, `grad` that of `up`.
    fn deactivate(gate: &mut [f32], up: &[f32], grad: &mut [f32]) {
        for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*gate));
            let silu = *gate * sigmoid;
            let slope = mul_add::<FMA>(silu, 1.0 - sigmoid, sigmoid);
            *gate = *grad * up * slope;
            *grad *= silu;
        }
    }
}
