//! Decoding a quantized matrix to dense values.

use nf4::MatrixRef;
use rayon::prelude::*;

use crate::blocks;
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::double_quant::decode_scales;
use crate::element::Element;
use crate::simd::{Isa, Simd, kernel};

/// Elements a task decodes.
const CHUNK: usize = 32 * 1024;
/// Scales decoded ahead of the blocks they belong to.
const SCALES: usize = 64;

/// Decodes a whole matrix into `out`, row by row: `values[code] * absmax`, bit-exact with bitsandbytes
/// `dequantize_4bit`, and the blocks of files with gguf-py `dequantize`.
///
/// # Panics
/// If `out` does not have exactly the matrix's number of elements.
pub fn dequantize(w: MatrixRef<'_>, out: &mut [f32]) {
    Cpu::default().dequantize(w, out);
}

/// Decodes a part of a matrix into `out`: its flattened elements from `start` on, each as [`dequantize`] writes it.
///
/// # Panics
/// If the matrix does not have that many elements from `start` on.
pub fn dequantize_range(w: MatrixRef<'_>, start: usize, out: &mut [f32]) {
    Cpu::default().dequantize_range(w, start, out);
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
                    decode(self.isa, w, i * CHUNK, out);
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
        self.dequantize_range(w, 0, out);
    }

    /// Decodes a part of a matrix: [`dequantize_range`].
    ///
    /// # Panics
    /// As [`dequantize_range`].
    pub fn dequantize_range(self, w: MatrixRef<'_>, start: usize, out: &mut [f32]) {
        let elements = w.layout().elements();
        assert!(
            start <= elements && out.len() <= elements - start,
            "dequantize_range: the matrix's {elements} elements do not reach {} from {start} on",
            out.len()
        );
        out.par_chunks_mut(CHUNK)
            .enumerate()
            .with_min_len(self.threads.min_len(1))
            .for_each(|(i, out)| decode(self.isa, w, start + i * CHUNK, out));
    }
}

/// Decodes the flattened elements from `start` on.
fn decode(isa: Isa, w: MatrixRef<'_>, start: usize, out: &mut [f32]) {
    match CodebookRef::of(w) {
        Some(w) => dequantize_codes(isa, w, start, out),
        None => blocks::dequantize_range(isa, w, start, out),
    }
}

kernel! {
    /// Decodes the flattened elements from `start` on.
    fn dequantize_codes(w: CodebookRef<'_>, start: usize, out: &mut [f32]) = decode_range;
}

#[inline(always)]
pub(crate) fn decode_range<S: Simd>(s: S, w: CodebookRef<'_>, start: usize, mut out: &mut [f32]) {
    let size = w.block_size();
    let values = w.codebook().values();
    let table = s.table(values);
    let mut scales = [0.0; SCALES];
    let mut at = start;
    while !out.is_empty() {
        let first = at / size;
        let count = ((at + out.len() - 1) / size + 1 - first).min(SCALES);
        decode_scales(s, w.scales(), first, &mut scales[..count]);
        for (block, scale) in (first..).zip(&scales[..count]) {
            let len = ((block + 1) * size - at).min(out.len());
            let (run, rest) = out.split_at_mut(len);
            decode_run(s, table, values, w.packed(), at, *scale, run);
            at += len;
            out = rest;
        }
    }
}

/// Decodes elements of one block.
#[inline(always)]
fn decode_run<S: Simd>(
    s: S,
    table: S::Table,
    values: &[f32; 16],
    packed: &[u32],
    at: usize,
    scale: f32,
    out: &mut [f32],
) {
    let one = |i: usize| values[(packed[i / 8] >> (4 * (i % 8)) & 15) as usize] * scale;
    let head = (at.next_multiple_of(8) - at).min(out.len());
    let (before, rest) = out.split_at_mut(head);
    before
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(at + i));
    let (chunks, after) = rest.as_chunks_mut::<16>();
    let at = at + head;
    let (words, _) = packed[at.div_ceil(8).min(packed.len())..].as_chunks::<2>();
    let lanes = s.splat(scale);
    for (chunk, words) in chunks.iter_mut().zip(words) {
        s.store(s.mul(s.lookup(table, s.codes(words)), lanes), chunk);
    }
    let at = at + 16 * chunks.len();
    after
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(at + i));
}
