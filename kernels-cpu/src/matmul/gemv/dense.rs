//! The product for few rows with a matrix that is not quantized, bound by reading the matrix, once and where it lies.
//!
//! Numbers of 16 bits are widened in the register that they are loaded into. A row of `x` has the same bits whatever other rows
//! stand beside it.

use super::{MAX_ROWS, by_rows};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::simd::{Simd, kernel};

/// Sums that the terms of a row go to in turn, so that an addition need not wait for the one before.
const SUMS: usize = 2;

/// Rows of a matrix, which begin `stride` elements apart and are `len` long.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Rows<'a, W> {
    pub(in crate::matmul) values: &'a [W],
    pub(in crate::matmul) len: usize,
    pub(in crate::matmul) stride: usize,
}

/// Writes `y = x·Wᵀ: [m, n]` for `n` rows of W.
pub(in crate::matmul) fn forward<W: Element>(
    cpu: Cpu,
    w: Rows<'_, W>,
    n: usize,
    x: &[f32],
    m: usize,
    y: &mut [f32],
) {
    let mut filled = vec![0.0; m * w.len.next_multiple_of(16)];
    for (to, from) in filled
        .chunks_exact_mut(w.len.next_multiple_of(16))
        .zip(x.chunks_exact(w.len))
    {
        to[..w.len].copy_from_slice(from);
    }
    by_rows(cpu, [n, w.len], m, y, |first, out| {
        dot_rows(cpu.isa, w, first, &filled, m, out);
    });
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on, for rows of `x` that are filled with zeros to whole vectors.
    fn dot_rows<W: Element>(w: Rows<'_, W>, first: usize, x: &[f32], m: usize, out: &mut [f32]) = dot;
}

#[inline(always)]
fn dot<S: Simd, W: Element>(
    s: S,
    w: Rows<'_, W>,
    first: usize,
    x: &[f32],
    m: usize,
    out: &mut [f32],
) {
    const { assert!(MAX_ROWS == 5) };
    match m {
        1 => dot_of::<S, W, 1>(s, w, first, x, out),
        2 => dot_of::<S, W, 2>(s, w, first, x, out),
        3 => dot_of::<S, W, 3>(s, w, first, x, out),
        4 => dot_of::<S, W, 4>(s, w, first, x, out),
        _ => dot_of::<S, W, 5>(s, w, first, x, out),
    }
}

#[inline(always)]
fn dot_of<S: Simd, W: Element, const M: usize>(
    s: S,
    w: Rows<'_, W>,
    first: usize,
    x: &[f32],
    out: &mut [f32],
) {
    let (x, _) = x.as_chunks::<16>();
    let vectors = x.len() / M;
    let x: [&[[f32; 16]]; M] = std::array::from_fn(|i| &x[i * vectors..][..vectors]);
    for (row, out) in (first..).zip(out.chunks_exact_mut(M)) {
        let (whole, rest) = w.values[row * w.stride..][..w.len].as_chunks::<16>();
        let mut sums = [[s.splat(0.0); M]; SUMS];
        let add = |at: usize, weights: S::F, sums: &mut [S::F; M]| {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = s.mul_add(weights, s.load(&x[at]), *sum);
            }
        };
        let (pairs, single) = whole.as_chunks::<SUMS>();
        for (pair, weights) in pairs.iter().enumerate() {
            for (j, (weights, sums)) in weights.iter().zip(&mut sums).enumerate() {
                add(SUMS * pair + j, W::load_16(s, weights), sums);
            }
        }
        for (weights, sums) in single.iter().zip(&mut sums) {
            add(SUMS * pairs.len(), W::load_16(s, weights), sums);
        }
        if !rest.is_empty() {
            let mut filled = [W::default(); 16];
            filled[..rest.len()].copy_from_slice(rest);
            add(whole.len(), W::load_16(s, &filled), &mut sums[0]);
        }
        for (i, out) in out.iter_mut().enumerate() {
            let [even, odd] = [sums[0][i], sums[1][i]];
            *out = s.sum(s.add(even, odd));
        }
    }
}
