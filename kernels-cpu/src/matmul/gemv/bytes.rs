//! The product of a matrix in blocks of signed bytes (Q8_0) with vectors that are rounded to 15 bits, in integers.
//!
//! Four products each are summed up exactly; their sums meet the scales of the blocks in f32. A row of the result has the
//! same bits whatever rows are beside it.

use nf4::MatrixRef;

use super::blocks::RowScales;
use super::dot::{AHEAD, GroupScales};
use super::{by_rows, group_words};
use crate::cpu::Cpu;
use crate::simd::math::ROUNDING;
use crate::simd::{Simd, kernel, prefetch};

/// Values in a group of 16 words.
const GROUP: usize = 64;
/// What is added to each byte of the matrix, so that none is negative.
const ZERO: i32 = 128;
/// The largest number that a value is rounded to: `128 · high + low` with both of them signed bytes.
const LARGEST: f32 = 127.0 * 128.0;

/// A vector as whole numbers of 15 bits, in units of a scale.
pub(in crate::matmul) struct Rounded {
    scale: f32,
    groups: Vec<Group>,
    residual: f64,
}

/// Values in the order of 16 words, four signed bytes a word.
#[derive(Clone)]
struct Group {
    high: Bytes,
    low: Bytes,
}

impl Group {
    /// Returns the sum of the products with each word of `codes`, exact before it is rounded to f32.
    #[inline(always)]
    fn dot<S: Simd>(&self, s: S, codes: S::U) -> S::F {
        let high = s.dot_bytes(
            codes,
            s.load_u(&self.high.words),
            s.load_u(&self.high.starts),
        );
        let start = s.add_u(s.shift_left(high, 7), s.load_u(&self.low.starts));
        s.converted(s.dot_bytes(codes, s.load_u(&self.low.words), start))
    }
}

/// One of the two bytes of each value.
#[derive(Clone)]
struct Bytes {
    words: [u32; 16],
    /// What the sum of a word's products begins with, to take back what [`ZERO`] adds to it.
    starts: [u32; 16],
}

impl Bytes {
    const NONE: Self = Self {
        words: [0; 16],
        starts: [0; 16],
    };

    fn set(&mut self, at: usize, byte: i32) {
        let (word, place) = (at / 4, 8 * (at % 4));
        self.words[word] |= (byte.cast_unsigned() & 255) << place;
        self.starts[word] = self.starts[word].wrapping_add_signed(-ZERO * byte);
    }
}

impl Rounded {
    pub(in crate::matmul) fn new(x: &[f32]) -> Self {
        let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = largest / LARGEST;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let none = Group {
            high: Bytes::NONE,
            low: Bytes::NONE,
        };
        let mut groups = vec![none; x.len().div_ceil(GROUP)];
        let mut square = 0f64;
        for (x, group) in x.chunks(GROUP).zip(&mut groups) {
            for (i, x) in x.iter().enumerate() {
                let code = (x * inverse).clamp(-LARGEST, LARGEST) + ROUNDING - ROUNDING;
                // The code is a whole number of that range, or 0 for a NaN.
                let code = code as i32;
                let high = (code + 64) >> 7;
                group.high.set(i, high);
                group.low.set(i, code - 128 * high);
                square += (f64::from(*x) - f64::from(scale) * f64::from(code)).powi(2);
            }
        }
        Self {
            scale,
            groups,
            residual: square.sqrt(),
        }
    }

    /// Returns the norm of what rounding took off; not finite where a value is not.
    pub(in crate::matmul) fn residual(&self) -> f64 {
        self.residual
    }
}

/// Returns `x·Wᵀ: [m, n]` for a matrix in Q8_0 and `m` vectors.
pub(in crate::matmul) fn multiply(cpu: Cpu, w: MatrixRef<'_>, x: &[Rounded]) -> Vec<f32> {
    let shape @ [n, _] = w.layout().shape();
    let mut y = vec![0.0; n * x.len()];
    if y.is_empty() {
        return y;
    }
    by_rows(cpu, shape, x.len(), &mut y, |first, out| {
        dot_rows(cpu.isa, w, first, x, out);
    });
    y
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on.
    fn dot_rows(w: MatrixRef<'_>, first: usize, x: &[Rounded], out: &mut [f32]) = dot;
}

#[inline(always)]
fn dot<S: Simd>(s: S, w: MatrixRef<'_>, first: usize, x: &[Rounded], out: &mut [f32]) {
    let (m, row_words) = (x.len(), w.layout().in_features() / 4);
    let rows = out.len() / m;
    let scales = RowScales::decode::<false>(w, first..first + rows);
    let words = &w.packed()[first * row_words..];
    let mut row = 0;
    while row + 4 <= rows {
        dot_together::<S, 4>(s, &scales, words, row, row_words, x, &mut out[row * m..]);
        row += 4;
    }
    while row < rows {
        dot_together::<S, 1>(s, &scales, words, row, row_words, x, &mut out[row * m..]);
        row += 1;
    }
}

/// Computes the products of `ROWS` rows of W from `row` on, with four vectors at a time.
#[inline(always)]
fn dot_together<S: Simd, const ROWS: usize>(
    s: S,
    scales: &RowScales,
    words: &[u32],
    row: usize,
    row_words: usize,
    x: &[Rounded],
    out: &mut [f32],
) {
    let m = x.len();
    for (first, x) in (0..).step_by(4).zip(x.chunks(4)) {
        let out = &mut out[first..];
        match x {
            [a, b, c, d] => {
                dot_with::<S, ROWS, 4>(s, scales, words, row, row_words, [a, b, c, d], m, out)
            }
            [a, b, c] => {
                dot_with::<S, ROWS, 3>(s, scales, words, row, row_words, [a, b, c], m, out)
            }
            [a, b] => dot_with::<S, ROWS, 2>(s, scales, words, row, row_words, [a, b], m, out),
            [a, ..] => dot_with::<S, ROWS, 1>(s, scales, words, row, row_words, [a], m, out),
            [] => {}
        }
    }
}

/// Computes the products with `M` of `m` vectors.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn dot_with<S: Simd, const ROWS: usize, const M: usize>(
    s: S,
    scales: &RowScales,
    words: &[u32],
    row: usize,
    row_words: usize,
    x: [&Rounded; M],
    m: usize,
    out: &mut [f32],
) {
    let mut groups: [&[Group]; M] = [&[]; M];
    for (groups, x) in groups.iter_mut().zip(x) {
        *groups = &x.groups;
    }
    let mut totals = [[s.splat(0.0); ROWS]; M];
    for at in 0..groups[0].len() {
        let mut codes = [s.splat_u(0); ROWS];
        let mut of_rows = [s.splat(0.0); ROWS];
        for r in 0..ROWS {
            // What follows the row's end meets zeros.
            let words = &words[(row + r) * row_words..];
            prefetch(words, 16 * at + AHEAD);
            codes[r] = group_words(s, words, at);
            [of_rows[r], _] = scales.of_group::<false>(s, row + r, at);
        }
        for (groups, totals) in groups.iter().zip(&mut totals) {
            for ((total, codes), scale) in totals.iter_mut().zip(codes).zip(of_rows) {
                *total = s.mul_add(groups[at].dot(s, codes), scale, *total);
            }
        }
    }
    for (i, (x, totals)) in x.iter().zip(totals).enumerate() {
        for (out, total) in out.chunks_mut(m).zip(s.sums(totals)) {
            out[i] = total * x.scale;
        }
    }
}
