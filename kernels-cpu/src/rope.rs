//! Rotary position embedding. Nothing is kept for the backward pass but the tables of angles: it is the rotation
//! backwards.
//!
//! Bound by memory: `x` is read and rewritten.

use rayon::prelude::*;

use crate::element::Element;
use crate::pieces::PARALLEL;
use crate::simd::math::mul_add;
use crate::simd::{Isa, kernel};

/// The cosines and sines of the positions' angles.
///
/// They may carry a factor: `cos² + sin²` need not be 1.
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    /// `[rows, pairs]`; position `i` takes row `i % rows`.
    pub cos: &'a [f32],
    /// Like `cos`.
    pub sin: &'a [f32],
    /// Pairs of every head that turn, half the width that does.
    pub pairs: usize,
}

/// Rotates the pairs `(x[i], x[i + pairs])` of every head by the position's angles, backwards if `inverse`; from
/// `2 · pairs` on, heads stay as they are.
///
/// `x: [positions, heads, d]`.
///
/// # Panics
/// If `x` is not made of whole positions, heads have fewer pairs than turn, or `cos` and `sin` do not have one shape.
pub fn rotate<E: Element>(
    isa: Isa,
    x: &mut [E],
    [heads, d]: [usize; 2],
    angles: Angles<'_>,
    inverse: bool,
) {
    let Angles { cos, sin, pairs } = angles;
    if x.is_empty() || pairs == 0 {
        return;
    }
    assert!(
        2 * pairs <= d,
        "rope: heads of {d} do not have {pairs} pairs"
    );
    let width = heads * d;
    assert!(
        x.len().is_multiple_of(width),
        "rope: {} elements are not positions of {heads} heads of {d}",
        x.len()
    );
    assert_eq!(cos.len(), sin.len(), "rope: cos and sin differ");
    let rows = cos.len() / pairs;
    let sign = if inverse { -1.0 } else { 1.0 };
    let position = |scratch: &mut Vec<f32>, (i, heads): (usize, &mut [E])| {
        let angles = i % rows * pairs..(i % rows + 1) * pairs;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        E::modify(isa, heads, scratch, |heads| {
            turn(isa, heads, d, cos, sin, sign)
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
    /// Turns every head of a position, `d` wide: `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`.
    fn turn<S: Simd>(heads: &mut [f32], d: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let pairs = cos.len();
        for head in heads.chunks_exact_mut(d) {
            let (low, high) = head[..2 * pairs].split_at_mut(pairs);
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

    /// Rows of angles are taken again and again, and the rotation backwards undoes it; what does not turn stays.
    #[test]
    fn every_instruction_set_turns_by_the_angles() {
        let (positions, rows, heads, d) = (600, 300, 3, 20);
        let x: Vec<f32> = (0..positions * heads * d)
            .map(|i| (i as f32 * 0.3).sin())
            .collect();
        let angle = |i: usize| i as f32 * 0.01;
        for pairs in [d / 2, 3] {
            let cos: Vec<f32> = (0..rows * pairs).map(|i| angle(i).cos()).collect();
            let sin: Vec<f32> = (0..rows * pairs).map(|i| angle(i).sin()).collect();
            let (cos, sin) = (&*cos, &*sin);
            let angles = Angles { cos, sin, pairs };
            for isa in Isa::available() {
                let mut y = x.clone();
                rotate(*isa, &mut y, [heads, d], angles, false);
                for (i, (y, x)) in y.chunks(d).zip(x.chunks(d)).enumerate() {
                    let row = i / heads % rows;
                    for j in 0..pairs {
                        let (c, s) = (cos[row * pairs + j], sin[row * pairs + j]);
                        let (a, b) = (x[j], x[j + pairs]);
                        assert!((y[j] - (a * c - b * s)).abs() < 1e-6, "{isa:?}");
                        assert!((y[j + pairs] - (b * c + a * s)).abs() < 1e-6, "{isa:?}");
                    }
                    assert_eq!(y[2 * pairs..], x[2 * pairs..], "{isa:?}");
                }
                rotate(*isa, &mut y, [heads, d], angles, true);
                assert!(
                    y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 1e-5),
                    "{isa:?}"
                );
            }
        }
    }
}
