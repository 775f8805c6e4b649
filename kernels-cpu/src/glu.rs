//! The gate of a feed-forward layer: SwiGLU, GeGLU.
//!
//! Bound by memory: forward reads two and writes one, backward reads three and rewrites two of
//! them. The sigmoid is computed again, not kept.
//!
//! Both activations are `x · sigmoid(z)`: `z = x` makes it SiLU, `z = 2·sqrt(2/π)·(x + 0.044715·x³)` makes it the tanh
//! form of GELU, since `1 + tanh(u) = 2·sigmoid(2u)`.

use std::mem::MaybeUninit;

use nf4::glu::{Activation, GELU_CUBIC, GELU_SLOPE};

use crate::buffer::written;
use crate::element::Element;
use crate::pieces::{PIECE, for_each};
use crate::simd::math::{exp, mul_add};
use crate::simd::{Isa, Simd, kernel};

/// A thread's memory for half-precision operands in f32.
type Scratch = [Vec<f32>; 3];

/// Returns the bytes that are kept for the backward pass of `len` elements: `gate` and `up`.
pub fn saved_bytes(len: usize, element_bytes: usize) -> u128 {
    2 * len as u128 * element_bytes as u128
}

/// Returns `activation(gate) · up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn forward<E: Element>(isa: Isa, gate: &[E], up: &[E], activation: Activation) -> Vec<E> {
    let len = gate.len();
    assert_eq!(len, up.len(), "glu: gate and up differ");
    // SAFETY: the pieces make up the whole, and `activate` writes every element of its piece.
    unsafe {
        written(len, |y| {
            let piece = |[a, b, c]: &mut Scratch, i, y: &mut [MaybeUninit<E>]| {
                let range = i * PIECE..i * PIECE + y.len();
                let gate = E::read(isa, &gate[range.clone()], a);
                let up = E::read(isa, &up[range], b);
                E::write(isa, y, c, |y| activate(isa, activation, gate, up, y));
            };
            for_each(len, y.chunks_mut(PIECE), piece);
        })
    }
}

/// Turns `gate` into its gradient and `grad`, that of [`forward`]'s result, into the gradient of `up`.
///
/// # Panics
/// If the lengths differ.
pub fn backward<E: Element>(
    isa: Isa,
    gate: &mut [E],
    up: &[E],
    grad: &mut [E],
    activation: Activation,
) {
    let len = gate.len();
    assert_eq!([len; 2], [up.len(), grad.len()], "glu: operands differ");
    let piece = |[a, b, c]: &mut Scratch, _, ((gate, grad), up): ((&mut [E], &mut [E]), &[E])| {
        let up = E::read(isa, up, a);
        E::modify(isa, gate, b, |gate| {
            E::modify(isa, grad, c, |grad| {
                deactivate(isa, activation, gate, up, grad)
            });
        });
    };
    let pieces = gate.chunks_mut(PIECE).zip(grad.chunks_mut(PIECE));
    for_each(len, pieces.zip(up.chunks(PIECE)), piece);
}

kernel! {
    fn activate<S: Simd>(activation: Activation, gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        match activation {
            Activation::Silu => activate_with(gate, up, y, |x| exp::<S>(-x)),
            Activation::GeluTanh => activate_with(gate, up, y, |x| exp::<S>(-gelu_argument::<S>(x))),
        }
    }

    /// Turns `gate` into its gradient, and `grad` into that of `up`.
    fn deactivate<S: Simd>(activation: Activation, gate: &mut [f32], up: &[f32], grad: &mut [f32]) {
        match activation {
            Activation::Silu => deactivate_with::<S>(gate, up, grad, |x| (exp::<S>(-x), 1.0)),
            Activation::GeluTanh => deactivate_with::<S>(gate, up, grad, |x| {
                (exp::<S>(-gelu_argument::<S>(x)), gelu_slope::<S>(x))
            }),
        }
    }
}

/// Computes `y = gate · sigmoid(z) · up`, with `e^-z` of the gate from `exp`.
#[inline(always)]
fn activate_with(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>], exp: impl Fn(f32) -> f32) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        y.write(gate / (1.0 + exp(*gate)) * up);
    }
}

/// Turns `gate` into its gradient and `grad` into that of `up`, with `e^-z` and the derivative of `z` from `exp_slope`.
#[inline(always)]
fn deactivate_with<S: Simd>(
    gate: &mut [f32],
    up: &[f32],
    grad: &mut [f32],
    exp_slope: impl Fn(f32) -> (f32, f32),
) {
    for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
        let (exp, z_slope) = exp_slope(*gate);
        let sigmoid = 1.0 / (1.0 + exp);
        let activated = *gate * sigmoid;
        let slope = mul_add::<S>(activated * z_slope, 1.0 - sigmoid, sigmoid);
        *gate = *grad * up * slope;
        *grad *= activated;
    }
}

/// Returns `z` of the GELU of `x`.
#[inline(always)]
fn gelu_argument<S: Simd>(x: f32) -> f32 {
    x * mul_add::<S>((GELU_SLOPE * GELU_CUBIC) as f32, x * x, GELU_SLOPE as f32)
}

/// Returns the derivative of [`gelu_argument`].
#[inline(always)]
fn gelu_slope<S: Simd>(x: f32) -> f32 {
    mul_add::<S>(
        (3.0 * GELU_SLOPE * GELU_CUBIC) as f32,
        x * x,
        GELU_SLOPE as f32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| 3.0 * (i as f32 * step).sin()).collect()
    }

    /// Returns the activation of `x` and its derivative, by the definition.
    fn formula(activation: Activation, x: f64) -> (f64, f64) {
        match activation {
            Activation::Silu => {
                let sigmoid = 1.0 / (1.0 + (-x).exp());
                (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
            }
            Activation::GeluTanh => {
                let root = (2.0 / core::f64::consts::PI).sqrt();
                let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
                let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
                let slope = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
                (0.5 * x * (1.0 + tanh), slope)
            }
        }
    }

    #[test]
    fn every_instruction_set_is_near_the_formula() {
        let len = 2 * PIECE + 77;
        let [gate, up, grad] = [0.3, 0.7, 1.1].map(|step| wave(len, step));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for isa in Isa::available() {
                let y = forward(*isa, &gate, &up, activation);
                let (mut dgate, mut dup) = (gate.clone(), grad.clone());
                backward(*isa, &mut dgate, &up, &mut dup, activation);
                for i in 0..len {
                    let [x, u, g] = [gate[i], up[i], grad[i]].map(f64::from);
                    let (activated, slope) = formula(activation, x);
                    let near =
                        |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5;
                    assert!(near(y[i], activated * u), "{activation:?} {isa:?}");
                    assert!(near(dup[i], g * activated), "{activation:?} {isa:?}");
                    assert!(near(dgate[i], g * u * slope), "{activation:?} {isa:?}");
                }
            }
        }
    }

    /// Where `z` or its exponential would be infinite, the activation is its limit and the gradients are finite.
    #[test]
    fn a_saturated_gate_stays_finite() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for isa in Isa::available() {
                let mut gate = [1e4f32, -1e4, 1e8, -1e8];
                let y = forward(*isa, &gate, &[1.0; 4], activation);
                assert_eq!([y[0], y[2]], [1e4, 1e8], "{activation:?} {isa:?}");
                assert!(
                    y[1].abs() < 1e-29 && y[3].abs() < 1e-29,
                    "{activation:?} {isa:?}"
                );
                let mut grad = [1.0; 4];
                backward(*isa, &mut gate, &[1.0; 4], &mut grad, activation);
                assert_eq!([gate[0], gate[2]], [1.0; 2], "{activation:?} {isa:?}");
                assert!(
                    gate[1].abs() < 1e-12 && gate[3].abs() < 1e-12,
                    "{activation:?} {isa:?}"
                );
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
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for isa in Isa::available() {
                let expected = forward(*isa, &wide(&gate), &wide(&up), activation);
                let expected: Vec<_> = expected.into_iter().map(bf16::from_f32).collect();
                let actual = forward(*isa, &gate, &up, activation);
                assert_eq!(actual, expected, "{activation:?} {isa:?}");
            }
        }
    }
}
