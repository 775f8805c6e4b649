//! The product for few rows with a matrix that is not quantized, bound by reading the matrix, once and where it lies.
//!
//! Numbers of 16 bits are widened in the register that they are loaded into. A row of `x` has the same bits whatever other rows
//! stand beside it.

use super::{MAX_ROWS, by_rows};
use crate::buffer::lines;
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
    let mut lines = lines(m * w.len.next_multiple_of(16));
    let filled: &mut [f32] = bytemuck::cast_slice_mut(&mut lines);
    for (to, from) in filled
        .chunks_exact_mut(w.len.next_multiple_of(16))
        .zip(x.chunks_exact(w.len))
    {
        to[..w.len].copy_from_slice(from);
    }
    by_rows(cpu, [n, w.len], m, y, |first, out| {
        dot_rows(cpu.isa, w, first, filled, m, out);
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
    const { assert!(MAX_ROWS == 8) };
    match m {
        1 => dot_of::<S, W, 1>(s, w, first, x, m, out),
        2 => dot_of::<S, W, 2>(s, w, first, x, m, out),
        3..=4 => dot_of::<S, W, 4>(s, w, first, x, m, out),
        5..=6 => dot_of::<S, W, 6>(s, w, first, x, m, out),
        _ => dot_of::<S, W, 8>(s, w, first, x, m, out),
    }
}

#[inline(always)]
fn dot_of<S: Simd, W: Element, const M: usize>(
    s: S,
    w: Rows<'_, W>,
    first: usize,
    x: &[f32],
    m: usize,
    out: &mut [f32],
) {
    let (vectors, _) = x.as_chunks::<16>();
    let per_row = vectors.len() / m;
    let mut x: [&[[f32; 16]]; M] = [&[]; M];
    for (i, x) in x.iter_mut().enumerate() {
        // Where there are fewer rows, the last comes several times.
        *x = &vectors[i.min(m - 1) * per_row..][..per_row];
    }
    for (row, out) in (first..).zip(out.chunks_exact_mut(m)) {
        let (whole, rest) = w.values[row * w.stride..][..w.len].as_chunks::<16>();
        let mut sums = [[s.splat(0.0); M]; SUMS];
        let (pairs, single) = whole.as_chunks::<SUMS>();
        for (pair, weights) in pairs.iter().enumerate() {
            for (j, (weights, sums)) in weights.iter().zip(&mut sums).enumerate() {
                add(s, W::load_16(s, weights), &x, SUMS * pair + j, sums);
            }
        }
        for (weights, sums) in single.iter().zip(&mut sums) {
            add(s, W::load_16(s, weights), &x, SUMS * pairs.len(), sums);
        }
        if !rest.is_empty() {
            let mut filled = [W::default(); 16];
            filled[..rest.len()].copy_from_slice(rest);
            add(s, W::load_16(s, &filled), &x, whole.len(), &mut sums[0]);
        }
        for (i, out) in out.iter_mut().enumerate() {
            let [even, odd] = [sums[0][i], sums[1][i]];
            *out = s.sum(s.add(even, odd));
        }
    }
}

/// Adds the products of a vector of weights with that of every row of `x`, a function because what a closure does may be compiled
/// without the kernel's instructions.
#[inline(always)]
fn add<S: Simd, const M: usize>(
    s: S,
    weights: S::F,
    x: &[&[[f32; 16]]; M],
    at: usize,
    sums: &mut [S::F; M],
) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = s.mul_add(weights, s.load(&x[at]), *sum);
    }
}
