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

/// A thread's memory for half-precision operands in f32.
type Scratch = [Vec<f32>; 3];

/// Returns the bytes that are kept for the backward pass of `len` elements: `gate` and `up`.
pub fn saved_bytes(len: usize, element_bytes: usize) -> u128 {
    2 * len as u128 * element_bytes as u128
}

/// Returns `silu(gate) · up`, element by element.
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

/// Turns `gate` into its gradient and `grad`, that of [`forward`]'s result, into the gradient of `up`.
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

    /// Turns `gate` into its gradient, and `grad` into that of `up`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| 3.0 * (i as f32 * step).sin()).collect()
    }

    #[test]
    fn every_instruction_set_is_near_the_formula() {
        let len = 2 * PIECE + 77;
        let [gate, up, grad] = [0.3, 0.7, 1.1].map(|step| wave(len, step));
        for isa in Isa::available() {
            let y = forward(*isa, &gate, &up);
            let (mut dgate, mut dup) = (gate.clone(), grad.clone());
            backward(*isa, &mut dgate, &up, &mut dup);
            for i in 0..len {
                let [x, u, g] = [gate[i], up[i], grad[i]].map(f64::from);
                let sigmoid = 1.0 / (1.0 + (-x).exp());
                let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5;
                assert!(near(y[i], x * sigmoid * u), "{isa:?}");
                assert!(near(dup[i], g * x * sigmoid), "{isa:?}");
                let slope = sigmoid * (1.0 + x * (1.0 - sigmoid));
                assert!(near(dgate[i], g * u * slope), "{isa:?}");
            }
        }
    }

    #[test]
    fn half_precision_is_rounded_once() {
        let [gate, up] = [0.3, 0.7].map(|step| {
            wave(1000, step)
                .into_iter()
                .map(bf16::from_f32)
                .collect::<Vec<_>>()
        });
        let wide = |values: &[bf16]| values.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        for isa in Isa::available() {
            let expected = forward(*isa, &wide(&gate), &wide(&up));
            let expected: Vec<_> = expected.into_iter().map(bf16::from_f32).collect();
            assert_eq!(forward(*isa, &gate, &up), expected, "{isa:?}");
        }
    }
}
