//! Bound by memory: every value is read and written once.

use std::mem::MaybeUninit;

use crate::buffer::written;
use crate::element::Element;
use crate::pieces::{PIECE, for_each};
use crate::simd::Isa;

/// Returns the values nearest to `values` in another type, ties to even.
pub fn convert<A: Element, B: Element>(isa: Isa, values: &[A]) -> Vec<B> {
    let len = values.len();
    // SAFETY: the pieces make up the whole, and `write` writes every element of its piece.
    unsafe {
        written(len, |out| {
            let pieces = values.chunks(PIECE).zip(out.chunks_mut(PIECE));
            let piece =
                |[a, b]: &mut [Vec<f32>; 2], _, (from, to): (&[A], &mut [MaybeUninit<B>])| {
                    let from = A::read(isa, from, a);
                    B::write(isa, to, b, |to| _ = to.write_copy_of_slice(from));
                };
            for_each(len, pieces, piece);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn values_are_rounded_as_the_half_crate_does() {
        let values: Vec<f32> = (0..3 * PIECE + 5)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        for isa in Isa::available() {
            let halves: Vec<bf16> = convert(*isa, &values);
            assert!(
                halves
                    .iter()
                    .zip(&values)
                    .all(|(a, b)| *a == bf16::from_f32(*b))
            );
            let others: Vec<f16> = convert(*isa, &halves);
            assert!(
                others
                    .iter()
                    .zip(&halves)
                    .all(|(a, b)| *a == f16::from_f32(b.to_f32()))
            );
            assert_eq!(convert::<f32, f32>(*isa, &values), values);
        }
    }
}
