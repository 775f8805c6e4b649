//! Rotary position embedding. Nothing is kept for the backward pass but the tables of angles: it is the rotation
//! backwards.
//!
//! Bound by memory: `x` is read and rewritten.

use rayon::prelude::*;

use crate::element::Element;
use crate::pieces::PARALLEL;
use crate::simd::math::mul_add;
use crate::simd::{Isa, kernel};

/// Rotates the pairs `(x[i], x[i + d/2])` of every head by the position's angles, backwards if `inverse`.
///
/// `x: [positions, heads, d]`, `cos` and `sin`: `[rows, d/2]`, of which position `i` takes row `i % rows`.
///
/// # Panics
/// If `x` is not made of whole positions, or `cos` and `sin` do not have one shape.
pub fn rotate<E: Element>(
    isa: Isa,
    x: &mut [E],
    [heads, d]: [usize; 2],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    if x.is_empty() || d < 2 {
        return;
    }
    let (width, half) = (heads * d, d / 2);
    assert!(
        x.len().is_multiple_of(width),
        "rope: {} elements are not positions of {heads} heads of {d}",
        x.len()
    );
    assert_eq!(cos.len(), sin.len(), "rope: cos and sin differ");
    let rows = cos.len() / half.max(1);
    let sign = if inverse { -1.0 } else { 1.0 };
    let position = |scratch: &mut Vec<f32>, (i, heads): (usize, &mut [E])| {
        let angles = i % rows * half..(i % rows + 1) * half;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        E::modify(isa, heads, scratch, |heads| {
            turn(isa, heads, cos, sin, sign)
        });
    };
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
}

kernel! {
    /// Turns every head of a position: `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`.
    fn turn<S: Simd>(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let sin = sin * sign;
                let (x, y) = (*a, *b);
                *a = mul_add::<S>(x, *cos, -(y * sin));
                *b = mul_add::<S>(y, *cos, x * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of angles are taken again and again, and the rotation backwards undoes it.
    #[test]
    fn every_instruction_set_turns_by_the_angles() {
        let (positions, rows, heads, d) = (600, 300, 3, 20);
        let x: Vec<f32> = (0..positions * heads * d)
            .map(|i| (i as f32 * 0.3).sin())
            .collect();
        let angle = |i: usize| i as f32 * 0.01;
        let cos: Vec<f32> = (0..rows * d / 2).map(|i| angle(i).cos()).collect();
        let sin: Vec<f32> = (0..rows * d / 2).map(|i| angle(i).sin()).collect();
        for isa in Isa::available() {
            let mut y = x.clone();
            rotate(*isa, &mut y, [heads, d], &cos, &sin, false);
            for (i, (y, x)) in y.chunks(d).zip(x.chunks(d)).enumerate() {
                let row = i / heads % rows;
                for j in 0..d / 2 {
                    let (c, s) = (cos[row * d / 2 + j], sin[row * d / 2 + j]);
                    assert!(
                        (y[j] - (x[j] * c - x[j + d / 2] * s)).abs() < 1e-6,
                        "{isa:?}"
                    );
                    assert!(
                        (y[j + d / 2] - (x[j + d / 2] * c + x[j] * s)).abs() < 1e-6,
                        "{isa:?}"
                    );
                }
            }
            rotate(*isa, &mut y, [heads, d], &cos, &sin, true);
            assert!(
                y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 1e-5),
                "{isa:?}"
            );
        }
    }
}
