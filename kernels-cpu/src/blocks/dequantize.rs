//! Decoding consecutive elements.

use nf4::MatrixRef;

use super::codes::{Codes, scaled, with_codes};
use super::scales;
use crate::simd::{Simd, kernel};

/// Scales decoded ahead of the blocks they belong to.
const SCALES: usize = 64;

kernel! {
    /// Decodes the flattened elements from `start` on.
    pub(crate) fn dequantize_range(w: MatrixRef<'_>, start: usize, out: &mut [f32]) = decode_range;
}

#[inline(always)]
pub(crate) fn decode_range<S: Simd>(s: S, w: MatrixRef<'_>, start: usize, out: &mut [f32]) {
    with_codes!(s, w.layout().block_format(), |codes, MINIMA| {
        decode_blocks::<S, _, MINIMA>(s, codes, w, start, out);
    });
}

#[inline(always)]
fn decode_blocks<S: Simd, C: Codes<S>, const MINIMA: bool>(
    s: S,
    codes: C,
    w: MatrixRef<'_>,
    start: usize,
    mut out: &mut [f32],
) {
    let size = w.layout().block_format().block_size;
    let mut scales = [0.0; SCALES];
    let mut minima = [0.0; SCALES];
    let mut at = start;
    while !out.is_empty() {
        let first = at / size;
        let count = ((at + out.len() - 1) / size + 1 - first).min(SCALES);
        let (scales, minima) = (&mut scales[..count], &mut minima[..count]);
        scales::decode::<MINIMA>(w, first, scales, minima);
        for (i, block) in (first..first + count).enumerate() {
            let len = ((block + 1) * size - at).min(out.len());
            let (run, rest) = out.split_at_mut(len);
            decode_run::<S, C, MINIMA>(s, codes, w, at, [scales[i], minima[i]], run);
            at += len;
            out = rest;
        }
    }
}

/// Decodes elements of one block.
#[inline(always)]
fn decode_run<S: Simd, C: Codes<S>, const MINIMA: bool>(
    s: S,
    codes: C,
    w: MatrixRef<'_>,
    at: usize,
    [scale, minimum]: [f32; 2],
    out: &mut [f32],
) {
    let (packed, known) = (w.packed(), w.layout().block_format().codes);
    let bits = 32 / C::PER_WORD;
    let one = |i: usize| {
        let code = packed[i / C::PER_WORD] >> (bits * (i % C::PER_WORD));
        let scaled = known.value(code) * scale;
        if MINIMA { scaled + minimum } else { scaled }
    };
    let head = (at.next_multiple_of(8) - at).min(out.len());
    let (before, rest) = out.split_at_mut(head);
    before
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(at + i));
    let (chunks, after) = rest.as_chunks_mut::<16>();
    let at = at + head;
    let words = &packed[at.div_ceil(C::PER_WORD).min(packed.len())..];
    let lanes = [s.splat(scale), s.splat(minimum)];
    for (chunk, words) in chunks.iter_mut().zip(words.chunks_exact(16 / C::PER_WORD)) {
        let values = codes.consecutive(s, words);
        s.store(scaled::<S, MINIMA>(s, values, lanes), chunk);
    }
    let at = at + 16 * chunks.len();
    after
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(at + i));
}
