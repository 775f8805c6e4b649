//! The gate of a SwiGLU feed-forward layer.
//!
//! Bound by memory: forward reads two and writes one, backward reads three and rewrites two of
//! them. The sigmoid is computed again, not kept.

use std::mem::MaybeUninit;

use crate::buffer::written;
use crate::element::Element;
use crate::pieces::{PIECE, for_each};
use crate::simd::math::{exp, mul_add};
use crate::simd::{Isa, kernel};

/// What a thread widens half-precision operands into.
type Scratch = [Vec<f32>; 3];

/// Bytes that are kept for the backward pass of `len` elements: `gate` and `up`.
pub fn saved(len: usize, element_bytes: usize) -> u128 {
    2 * len as u128 * element_bytes as u128
}

/// `silu(gate) · up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn forward<E: Element>(isa: Isa, gate: &[E], up: &[E]) -> Vec<E> {
    let len = gate.len();
    assert_eq!(len, up.len(), "swiglu: gate and up differ");
    // SAFETY: the pieces make up the whole, and `activate` writes every element of its piece.
    unsafe {
        written(len, |y| {
            let piece = |[a, b, c]: &mut Scratch, i, y: &mut [MaybeUninit<E>]| {
                let range = i * PIECE..i * PIECE + y.len();
                let gate = E::read(isa, &gate[range.clone()], a);
                let up = E::read(isa, &up[range], b);
                E::write(isa, y, c, |y| activate(isa, gate, up, y));
            };
            for_each(len, y.chunks_mut(PIECE), piece);
        })
    }
}

/// `gate` becomes its gradient and `grad`, that of [`forward`]'s result, the gradient of `up`.
///
/// # Panics
/// If the lengths differ.
pub fn backward<E: Element>(isa: Isa, gate: &mut [E], up: &[E], grad: &mut [E]) {
    let len = gate.len();
    assert_eq!([len; 2], [up.len(), grad.len()], "swiglu: operands differ");
    let piece = |[a, b, c]: &mut Scratch, _, ((gate, grad), up): ((&mut [E], &mut [E]), &[E])| {
        let up = E::read(isa, up, a);
        E::modify(isa, gate, b, |gate| {
            E::modify(isa, grad, c, |grad| deactivate(isa, gate, up, grad));
        });
    };
    let pieces = gate.chunks_mut(PIECE).zip(grad.chunks_mut(PIECE));
    for_each(len, pieces.zip(up.chunks(PIECE)), piece);
}

kernel! {
    fn activate<S: Simd>(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            y.write(gate / (1.0 + exp::<S>(-gate)) * up);
        }
    }

    /// `gate` becomes its gradient, `grad` that of `up`.
    fn deactivate<S: Simd>(gate: &mut [f32], up: &[f32], grad: &mut [f32]) {
        for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
            let sigmoid = 1.0 / (1.0 + exp::<S>(-*gate));
            let silu = *gate * sigmoid;
            let slope = mul_add::<S>(silu, 1.0 - sigmoid, sigmoid);
            *gate = *grad * up * slope;
            *grad *= silu;
        }
    }
}
