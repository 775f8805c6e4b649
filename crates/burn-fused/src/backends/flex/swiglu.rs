//! Bound by memory: forward reads two and writes one, backward reads three and rewrites two of
//! them. The sigmoid is computed again, not kept.

use burn_core::backend::TensorMetadata;
use burn_core::tensor::{DType, bf16, f16};
use burn_flex::FlexTensor;
use core::mem::MaybeUninit;
use rayon::prelude::*;

use super::{
    buffer::{PARALLEL, PIECE, Typed, cast, create, update, written},
    number::{Number, with_number},
    simd::{exp, mul_add, vectorised},
};

/// What a thread widens half-precision operands into.
type Scratch = [Vec<f32>; 3];

pub(super) fn forward(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let up = cast(up, gate.dtype());
    with_number!(gate.dtype(), E => forward_as::<E>(gate, up))
}

fn forward_as<E: Number>(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let shape = gate.shape();
    let (gate, up) = (Typed::new(gate), Typed::new(up));
    let (gate, up) = (gate.slice::<E>(), up.slice::<E>());
    // SAFETY: the pieces make up the whole, and `activate` writes every element of its piece.
    let y = unsafe {
        written(gate.len(), |y| {
            let piece = |[a, b, c]: &mut Scratch, (i, y): (usize, &mut [MaybeUninit<E>])| {
                let range = i * PIECE..i * PIECE + y.len();
                let (gate, up) = (E::read(&gate[range.clone()], a), E::read(&up[range], b));
                E::write(y, c, |y| activate(gate, up, y));
            };
            if y.len() < PARALLEL {
                let mut scratch = Scratch::default();
                let pieces = y.chunks_mut(PIECE).enumerate();
                pieces.for_each(|y| piece(&mut scratch, y));
            } else {
                let pieces = y.par_chunks_mut(PIECE).enumerate();
                pieces.for_each_init(Scratch::default, piece);
            }
        })
    };
    create(shape, y)
}

pub(super) fn backward(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (dtype, up_dtype) = (gate.dtype(), up.dtype());
    let (up, grad) = (cast(up, dtype), cast(grad, dtype));
    let (dgate, dup) = with_number!(dtype, E => backward_as::<E>(gate, up, grad));
    (dgate, cast(dup, up_dtype))
}

fn backward_as<E: Number>(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let up = Typed::new(up);
    let up = up.slice::<E>();
    let mut dup = None;
    let dgate = update(gate, |gate: &mut [E]| {
        dup = Some(update(grad, |grad: &mut [E]| {
            let piece = |[a, b, c]: &mut Scratch,
                         (i, (gate, grad)): (usize, (&mut [E], &mut [E]))| {
                let up = E::read(&up[i * PIECE..][..gate.len()], a);
                E::modify(gate, b, |gate| {
                    E::modify(grad, c, |grad| deactivate(gate, up, grad));
                });
            };
            if gate.len() < PARALLEL {
                let mut scratch = Scratch::default();
                let pieces = gate.chunks_mut(PIECE).zip(grad.chunks_mut(PIECE));
                pieces
                    .enumerate()
                    .for_each(|pair| piece(&mut scratch, pair));
            } else {
                let pieces = gate.par_chunks_mut(PIECE).zip(grad.par_chunks_mut(PIECE));
                pieces.enumerate().for_each_init(Scratch::default, piece);
            }
        }));
    });
    (dgate, dup.expect("the gradient was computed"))
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
