//! Bound by memory: every value is read and written once.

use std::mem::MaybeUninit;

use crate::buffer::written;
use crate::element::Element;
use crate::pieces::{PIECE, for_each};
use crate::simd::Isa;

/// The values nearest to `values` in another type, ties to even.
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
