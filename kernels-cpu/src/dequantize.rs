//! Decoding a quantized matrix to dense values.

use nf4::MatrixRef;
use rayon::prelude::*;

use crate::codes::{Codes, scaled, with_codes};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::scales;
use crate::simd::{Simd, kernel};

/// Elements a task decodes.
const CHUNK: usize = 32 * 1024;
/// Scales decoded ahead of the blocks they belong to.
const SCALES: usize = 64;

/// Decodes a whole matrix into `out`, row by row: `values[code] * absmax`, bit-exact with bitsandbytes
/// `dequantize_4bit`, and with gguf-py's `dequantize` for the formats of GGUF files.
///
/// # Panics
/// If `out` does not have exactly the matrix's number of elements.
pub fn dequantize(w: MatrixRef<'_>, out: &mut [f32]) {
    Cpu::default().dequantize(w, out);
}

/// Returns the matrix that [`dequantize`] writes, each value rounded to the nearest of `E`.
pub fn dequantize_vec<E: Element>(w: MatrixRef<'_>) -> Vec<E> {
    Cpu::default().dequantize_vec(w)
}

impl Cpu {
    /// Returns a decoded matrix: [`dequantize_vec`].
    pub fn dequantize_vec<E: Element>(self, w: MatrixRef<'_>) -> Vec<E> {
        let mut out = vec![E::default(); w.layout().elements()];
        out.par_chunks_mut(CHUNK)
            .enumerate()
            .with_min_len(self.threads.min_len(1))
            .for_each_init(Vec::new, |scratch, (i, out)| {
                E::modify(self.isa, out, scratch, |out| {
                    dequantize_range(self.isa, w, i * CHUNK, out);
                });
            });
        out
    }

    /// Decodes a whole matrix: [`dequantize`].
    ///
    /// # Panics
    /// As [`dequantize`].
    pub fn dequantize(self, w: MatrixRef<'_>, out: &mut [f32]) {
        let elements = w.layout().elements();
        assert_eq!(
            out.len(),
            elements,
            "dequantize: `out` must hold the matrix's {elements} elements"
        );
        out.par_chunks_mut(CHUNK)
            .enumerate()
            .with_min_len(self.threads.min_len(1))
            .for_each(|(i, out)| dequantize_range(self.isa, w, i * CHUNK, out));
    }
}

kernel! {
    /// Decodes the flattened elements from `start` on.
    fn dequantize_range(w: MatrixRef<'_>, start: usize, out: &mut [f32]) = decode_range;
}

#[inline(always)]
pub(crate) fn decode_range<S: Simd>(s: S, w: MatrixRef<'_>, start: usize, out: &mut [f32]) {
    with_codes!(s, w.layout().block_format(), |codes, MINIMA, _SMALLEST| {
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
        scales::decode::<S, MINIMA>(s, w, first, scales, minima);
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
