//! The product for few rows with the blocks of a file.
//!
//! With codes of 8 bits, 16 words are 64 weights: shifted by `8 j` they are the weights `4 l + j` in lane `l`. Rows are whole
//! blocks, and a block is 4 or 8 words, so that a group of 16 words has a scale for each four lanes. A minimum is added to
//! all weights of a word: forward, its product with the sum of what `x` has there.

use std::ops::Range;

use nf4::MatrixRef;

use super::dot::{GroupScales, NibblePairs, Products, Single, WordRows};
use super::{MAX_ROWS, PASS, by_partials, group_words};
use crate::blocks::codes::{Codes, scaled, with_codes};
use crate::blocks::scales;
use crate::cpu::Cpu;
use crate::simd::{Simd, kernel};

/// Writes `y = x·W`.
pub(super) fn transposed(cpu: Cpu, w: MatrixRef<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    let layout = w.layout();
    let add = |first, rows, sums: &mut [f32]| add_rows(cpu.isa, w, first, rows, x, m, sums);
    match layout.block_format().codes {
        nf4::Codes::Table(_) => by_partials::<8>(cpu, layout.shape(), m, y, add),
        nf4::Codes::Bytes { .. } => by_partials::<4>(cpu, layout.shape(), m, y, add),
    }
}

/// Returns the sum of what meets each word, for interleaved rows in groups of `vectors` vectors; `read` returns what a lane holds.
pub(super) fn word_sums(x: &[u32], vectors: usize, read: impl Fn(u32) -> f32) -> Vec<f32> {
    let lanes = |group: &[u32]| {
        let (vectors, _) = group.as_chunks::<16>();
        let mut sums = [0.0; 16];
        for vector in vectors {
            for (sum, x) in sums.iter_mut().zip(vector) {
                *sum += read(*x);
            }
        }
        sums
    };
    x.chunks_exact(16 * vectors).flat_map(lanes).collect()
}

/// The scales and minima of some rows, one for each four words.
struct RowScales {
    scales: Vec<f32>,
    minima: Vec<f32>,
    per_row: usize,
}

impl RowScales {
    #[inline(always)]
    fn decode<const MINIMA: bool>(w: MatrixRef<'_>, rows: Range<usize>) -> Self {
        let (layout, format) = (w.layout(), w.layout().block_format());
        let blocks = layout.in_features() / format.block_size;
        let copies = format.block_size / format.codes.per_word() / 4;
        let len = rows.len() * blocks;
        // What follows the last row's end meets zeros.
        let mut scales = vec![0.0; len * copies + 4];
        let mut minima = vec![0.0; if MINIMA { len * copies + 4 } else { 0 }];
        let last = if MINIMA { len } else { 0 };
        scales::decode::<MINIMA>(
            w,
            rows.start * blocks,
            &mut scales[..len],
            &mut minima[..last],
        );
        if copies == 2 {
            double(&mut scales, len);
            double(&mut minima, last);
        }
        Self {
            scales,
            minima,
            per_row: blocks * copies,
        }
    }
}

impl<S: Simd> GroupScales<S> for RowScales {
    #[inline(always)]
    fn of_group<const MINIMA: bool>(&self, s: S, row: usize, group: usize) -> [S::F; 2] {
        let at = row * self.per_row + 4 * group;
        [
            quarters(s, &self.scales[at..]),
            if MINIMA {
                quarters(s, &self.minima[at..])
            } else {
                s.splat(0.0)
            },
        ]
    }
}

#[inline(always)]
fn quarters<S: Simd>(s: S, values: &[f32]) -> S::F {
    let quarters = values.first_chunk();
    s.quarters(quarters.expect("there are four values more than blocks"))
}

/// Writes each of the first `len` values twice.
fn double(values: &mut [f32], len: usize) {
    for i in (0..len).rev() {
        values[2 * i + 1] = values[i];
        values[2 * i] = values[i];
    }
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on. `sums` are those of `x`, if the format has minima.
    pub(super) fn dot_rows(w: MatrixRef<'_>, in_pairs: bool, first: usize, x: &[u32], sums: &[f32], m: usize, out: &mut [f32]) = dot;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn dot<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    in_pairs: bool,
    first: usize,
    x: &[u32],
    sums: &[f32],
    m: usize,
    out: &mut [f32],
) {
    let format = w.layout().block_format();
    match (format.codes, format.scales.has_minima()) {
        (nf4::Codes::Table(values), false) if in_pairs => {
            dot_with::<S, _, false>(s, NibblePairs::new(values), w, first, x, sums, m, out);
        }
        (nf4::Codes::Table(values), true) if in_pairs => {
            dot_with::<S, _, true>(s, NibblePairs::new(values), w, first, x, sums, m, out);
        }
        _ => with_codes!(s, format, |codes, MINIMA| {
            dot_with::<S, _, MINIMA>(s, Single(codes), w, first, x, sums, m, out);
        }),
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn dot_with<S: Simd, P: Products<S>, const MINIMA: bool>(
    s: S,
    codes: P,
    w: MatrixRef<'_>,
    first: usize,
    x: &[u32],
    sums: &[f32],
    m: usize,
    out: &mut [f32],
) {
    let scales = RowScales::decode::<MINIMA>(w, first..first + out.len() / m);
    let rows = WordRows::new::<S>(codes, scales, w.packed(), w.layout().in_features(), first);
    rows.dot::<MINIMA, S>(s, x, sums, m, out);
}

kernel! {
    /// Adds rows of `W`, each times its element of `x: [m, n]`, to the interleaved `sums: [m, k filled]`.
    fn add_rows(w: MatrixRef<'_>, first: usize, rows: usize, x: &[f32], m: usize, sums: &mut [f32]) = add;
}

#[inline(always)]
fn add<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    first: usize,
    rows: usize,
    x: &[f32],
    m: usize,
    sums: &mut [f32],
) {
    with_codes!(s, w.layout().block_format(), |codes, MINIMA| {
        add_of::<S, _, MINIMA>(s, codes, w, first..first + rows, x, m, sums);
    })
}

#[inline(always)]
fn add_of<S: Simd, C: Codes<S>, const MINIMA: bool>(
    s: S,
    codes: C,
    w: MatrixRef<'_>,
    rows: Range<usize>,
    x: &[f32],
    m: usize,
    sums: &mut [f32],
) {
    let [n, k] = w.layout().shape();
    let row_words = k / C::PER_WORD;
    let scales = RowScales::decode::<MINIMA>(w, rows.clone());
    let (sums, _) = sums.as_chunks_mut::<16>();
    let groups = sums.len() / C::PER_WORD / m;
    for pass in rows.clone().step_by(PASS) {
        // A pass that is not full takes the last row again, times 0.
        let row = |p: usize| (pass + p).min(rows.end - 1);
        let words: [&[u32]; PASS] =
            std::array::from_fn(|p| &w.packed()[row(p) * row_words..][..row_words]);
        let mut factors = [[0.0; PASS]; MAX_ROWS];
        for (i, factors) in factors.iter_mut().enumerate().take(m) {
            for (p, factor) in factors.iter_mut().enumerate().take(rows.end - pass) {
                *factor = x[i * n + pass + p];
            }
        }
        for group in 0..groups {
            let mut lanes = [s.splat_u(0); PASS];
            let mut scale = [[s.splat(0.0); 2]; PASS];
            for p in 0..PASS {
                lanes[p] = group_words(s, words[p], group);
                scale[p] = scales.of_group::<MINIMA>(s, row(p) - rows.start, group);
            }
            for j in 0..C::PER_WORD {
                let mut weights = [s.splat(0.0); PASS];
                for p in 0..PASS {
                    let values = codes.values(s, lanes[p], j as u32);
                    weights[p] = scaled::<S, MINIMA>(s, values, scale[p]);
                }
                for (i, factors) in factors[..m].iter().enumerate() {
                    let to = &mut sums[(i * groups + group) * C::PER_WORD + j];
                    let mut sum = s.load(to);
                    for (factor, weights) in factors.iter().zip(weights) {
                        sum = s.mul_add(s.splat(*factor), weights, sum);
                    }
                    s.store(sum, to);
                }
            }
        }
    }
}
