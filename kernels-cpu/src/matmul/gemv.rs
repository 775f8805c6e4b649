//! The product for up to [`MAX_ROWS`] rows, bound by reading the packed words where memory is slow.
//!
//! 16 consecutive words of a row are 128 weights, with codes of 8 bits 64. Shifted by `4 j` and looked up they are the weights
//! `8 l + j` in lane `l`, or, shifted by `8 j`, the weights `4 l + j`; so `x` (or the output) is kept in that order, and
//! words need no rearranging. A row is taken to end with as many zero words as fill the last 16.
//!
//! A minimum is added to all weights of a word: forward, its product with the sum of what `x` has there.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::codes::{Codes, scaled, with_codes};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::scales;
use crate::simd::{Simd, kernel};
use nf4::{Direction, Layout, MatrixRef};

/// Up to this many rows the decoded weights are used straight from the register they were decoded in: a decoded
/// vector then serves so few rows that storing it would cost more than it saves. Measured with AVX-512 at 2048 x 2048:
/// about equal at 6 rows, and at 8 `gemm` takes three quarters of the time.
const MAX_ROWS: usize = 5;

/// Most weights in a group of 16 words.
const GROUP: usize = 128;
/// Weights a task reads at least, so that starting it does not show.
const TASK: usize = 64 * 1024;
/// Most partial results of the transposed product.
const MAX_PARTIALS: usize = 32;
/// Rows of `W` that one pass over the transposed product's sums takes up.
const PASS: usize = 4;

/// Returns whether [`multiply`] takes `m` rows and a matrix `[out_features, in_features]`, whose rows must be whole words.
pub(super) fn serves([_, in_features]: [usize; 2], m: usize) -> bool {
    m <= MAX_ROWS && in_features.is_multiple_of(8)
}

/// Returns the bytes that [`multiply`] holds beside its operands and its result.
pub(super) fn workspace<E: Element>(m: usize, shape: [usize; 2], direction: Direction) -> usize {
    let [n, k] = shape;
    if m * n * k == 0 {
        return 0;
    }
    let [len, _] = direction.widths(shape);
    let widened = if size_of::<E>() == size_of::<f32>() {
        0
    } else {
        m * len
    };
    let sums = match direction {
        Direction::Forward => m * k.next_multiple_of(GROUP) + if m == 1 { n } else { 2 * m * n },
        Direction::Transposed => {
            n.div_ceil(rows_per_partial(shape)) * m * k.next_multiple_of(GROUP) + m * k
        }
    };
    (widened + sums) * size_of::<f32>()
}

/// Writes every value of `y`.
pub(super) fn multiply<E: Element>(
    cpu: Cpu,
    w: MatrixRef<'_>,
    x: &[E],
    m: usize,
    y: &mut [MaybeUninit<E>],
    direction: Direction,
) {
    let mut scratch = Vec::new();
    let x = E::read(cpu.isa, x, &mut scratch);
    let mut out = vec![0.0; y.len()];
    match direction {
        Direction::Forward => forward(cpu, w, x, m, &mut out),
        Direction::Transposed => transposed(cpu, w, x, m, &mut out),
    }
    y.iter_mut()
        .zip(out)
        .for_each(|(y, value)| _ = y.write(E::from_f32(value)));
}

/// Writes `y = x·Wᵀ`; the tasks are rows of W.
fn forward(cpu: Cpu, w: MatrixRef<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    let [n, k] = w.layout().shape();
    let format = w.layout().block_format();
    let order = Interleaved::of(w.layout());
    let x: Vec<f32> = x.chunks(k).flat_map(|row| order.row(row)).collect();
    let sums = if format.scales.has_minima() {
        order.sums(&x)
    } else {
        Vec::new()
    };
    let rows = TASK.div_ceil(k);
    // Results of a task are contiguous as `[row of W][m]`, and for one row of `x` that is `y` itself.
    let mut transposed = vec![0.0; if m == 1 { 0 } else { y.len() }];
    let out = if m == 1 { &mut *y } else { &mut transposed };
    out.par_chunks_mut(rows * m)
        .enumerate()
        .with_min_len(cpu.threads.min_len(1))
        .for_each(|(task, out)| {
            dot_rows(cpu.isa, w, task * rows, &x, &sums, m, out);
        });
    for (j, row) in transposed.chunks(m).enumerate() {
        row.iter()
            .enumerate()
            .for_each(|(i, value)| y[i * n + j] = *value);
    }
}

/// Returns the rows of W that one partial result of the transposed product sums up.
fn rows_per_partial([n, k]: [usize; 2]) -> usize {
    TASK.div_ceil(k)
        .max(n.div_ceil(MAX_PARTIALS))
        .next_multiple_of(PASS)
}

/// Writes `y = x·W`; the tasks are runs of rows of W with sums of their own, which are then added up in order.
fn transposed(cpu: Cpu, w: MatrixRef<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    let shape @ [n, k] = w.layout().shape();
    let rows = rows_per_partial(shape);
    let order = Interleaved::of(w.layout());
    let padded = order.padded(k);
    let mut partials = vec![0.0; n.div_ceil(rows) * m * padded];
    partials
        .par_chunks_mut(m * padded)
        .enumerate()
        .with_min_len(cpu.threads.min_len(1))
        .for_each(|(task, sums)| {
            let first = task * rows;
            add_rows(cpu.isa, w, first, rows.min(n - first), x, m, sums);
        });
    let (total, others) = partials.split_at_mut(m * padded);
    for partial in others.chunks(m * padded) {
        total
            .iter_mut()
            .zip(partial)
            .for_each(|(total, partial)| *total += partial);
    }
    for (y, total) in y.chunks_mut(k).zip(total.chunks(padded)) {
        for (i, y) in y.iter_mut().enumerate() {
            *y = total[order.position(i)];
        }
    }
}

/// The order of columns that the codes of 16 words are decoded in.
#[derive(Clone, Copy)]
struct Interleaved {
    per_word: usize,
}

impl Interleaved {
    fn of(layout: Layout) -> Self {
        Self {
            per_word: layout.block_format().codes.per_word(),
        }
    }

    /// Returns the columns of a group.
    const fn group(self) -> usize {
        16 * self.per_word
    }

    /// Returns the length of a row that is filled to whole groups.
    const fn padded(self, k: usize) -> usize {
        k.next_multiple_of(self.group())
    }

    /// Returns where column `i` lies.
    const fn position(self, i: usize) -> usize {
        let (group, per_word) = (self.group(), self.per_word);
        i / group * group + i % per_word * 16 + i % group / per_word
    }

    /// Returns a row in this order, filled with zeros to whole groups.
    fn row(self, row: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.padded(row.len())];
        row.iter()
            .enumerate()
            .for_each(|(i, value)| out[self.position(i)] = *value);
        out
    }

    /// Returns, for rows in this order, the sum of what meets each word.
    fn sums(self, x: &[f32]) -> Vec<f32> {
        let groups = x.chunks_exact(self.group());
        let lane_sum = |group: &[f32], lane| group.iter().skip(lane).step_by(16).sum();
        groups
            .flat_map(|group| std::array::from_fn::<f32, 16, _>(|lane| lane_sum(group, lane)))
            .collect()
    }
}

/// The scales of some rows and their minima, decoded together and spread to one a word.
struct RowScales {
    layout: Layout,
    first_block: usize,
    scales: Vec<f32>,
    minima: Vec<f32>,
}

impl RowScales {
    #[inline(always)]
    fn decode<S: Simd, const MINIMA: bool>(
        s: S,
        w: MatrixRef<'_>,
        first_row: usize,
        rows: usize,
    ) -> Self {
        let layout = w.layout();
        let (k, size) = (layout.in_features(), layout.block_format().block_size);
        let blocks = first_row * k / size..((first_row + rows) * k).div_ceil(size);
        let mut scales = vec![0.0; blocks.len()];
        let mut minima = vec![0.0; if MINIMA { blocks.len() } else { 0 }];
        scales::decode::<S, MINIMA>(s, w, blocks.start, &mut scales, &mut minima);
        Self {
            layout,
            first_block: blocks.start,
            scales,
            minima,
        }
    }

    /// Returns the elements that [`RowScales::spread`] needs: the words of all blocks of a row, and those of the last group.
    fn spread_len(layout: Layout) -> usize {
        let format = layout.block_format();
        (layout.in_features() + 2 * format.block_size) / format.codes.per_word() + 16
    }

    /// Writes the scale of every word of `row`, and its minimum if there are any; returns where the row's first word is.
    #[inline(always)]
    fn spread<const MINIMA: bool>(&self, row: usize, out: &mut [Vec<f32>; 2], at: usize) -> usize {
        let format = self.layout.block_format();
        let (k, size) = (self.layout.in_features(), format.block_size);
        let block_words = size / format.codes.per_word();
        let blocks = row * k / size..((row + 1) * k).div_ceil(size);
        let blocks = blocks.start - self.first_block..blocks.end - self.first_block;
        spread(&self.scales[blocks.clone()], block_words, &mut out[0][at..]);
        if MINIMA {
            spread(&self.minima[blocks], block_words, &mut out[1][at..]);
        }
        at + row * k % size / format.codes.per_word()
    }
}

/// Writes each value `block_words` times, a multiple of 4.
#[inline(always)]
fn spread(values: &[f32], block_words: usize, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<4>();
    for (value, out) in values.iter().zip(out.chunks_exact_mut(block_words / 4)) {
        out.iter_mut().for_each(|out| *out = [*value; 4]);
    }
}

/// Returns the memory for spread scales and minima of `rows` rows.
fn unspread<const MINIMA: bool>(layout: Layout, rows: usize) -> [Vec<f32>; 2] {
    let len = rows * RowScales::spread_len(layout);
    [len, if MINIMA { len } else { 0 }].map(|len| vec![0.0; len])
}

/// Returns the spread scales and minima of a group's words.
#[inline(always)]
fn group_scales<S: Simd, const MINIMA: bool>(s: S, spread: &[Vec<f32>; 2], at: usize) -> [S::F; 2] {
    let lanes = |values: &[f32]| {
        let lanes = values[at..].first_chunk();
        s.load(lanes.expect("spread_len counts the last group"))
    };
    [
        lanes(&spread[0]),
        if MINIMA {
            lanes(&spread[1])
        } else {
            s.splat(0.0)
        },
    ]
}

/// Returns the words of a group, zeros after the end of the row.
#[inline(always)]
fn group_words<S: Simd>(s: S, row: &[u32], group: usize) -> S::U {
    let words = &row[16 * group..];
    match words.first_chunk() {
        Some(words) => s.load_u(words),
        None => {
            let mut filled = [0; 16];
            filled[..words.len()].copy_from_slice(words);
            s.load_u(&filled)
        }
    }
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on. `sums` are those of `x`, if the format has minima.
    fn dot_rows(w: MatrixRef<'_>, first: usize, x: &[f32], sums: &[f32], m: usize, out: &mut [f32]) = dot;
}

#[inline(always)]
fn dot<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    first: usize,
    x: &[f32],
    sums: &[f32],
    m: usize,
    out: &mut [f32],
) {
    const { assert!(MAX_ROWS == 5) };
    with_codes!(s, w.layout().block_format(), |codes, MINIMA, _SMALLEST| {
        match m {
            1 => dot_of::<S, _, MINIMA, 1>(s, codes, w, first, [x, sums], out),
            2 => dot_of::<S, _, MINIMA, 2>(s, codes, w, first, [x, sums], out),
            3 => dot_of::<S, _, MINIMA, 3>(s, codes, w, first, [x, sums], out),
            4 => dot_of::<S, _, MINIMA, 4>(s, codes, w, first, [x, sums], out),
            _ => dot_of::<S, _, MINIMA, 5>(s, codes, w, first, [x, sums], out),
        }
    })
}

#[inline(always)]
fn dot_of<S: Simd, C: Codes<S>, const MINIMA: bool, const M: usize>(
    s: S,
    codes: C,
    w: MatrixRef<'_>,
    first: usize,
    [x, x_sums]: [&[f32]; 2],
    out: &mut [f32],
) {
    let layout = w.layout();
    let k = layout.in_features();
    let (x, _) = x.as_chunks::<16>();
    let (x_sums, _) = x_sums.as_chunks::<16>();
    let groups = x.len() / C::PER_WORD / M;
    let scales = RowScales::decode::<S, MINIMA>(s, w, first, out.len() / M);
    let mut spread = unspread::<MINIMA>(layout, 1);
    for (row, out) in (first..).zip(out.chunks_exact_mut(M)) {
        let at = scales.spread::<MINIMA>(row, &mut spread, 0);
        let words = &w.packed()[row * k / C::PER_WORD..(row + 1) * k / C::PER_WORD];
        let mut totals = [s.splat(0.0); M];
        for group in 0..groups {
            let lanes = group_words(s, words, group);
            let mut sums = [s.splat(0.0); M];
            for pair in 0..C::PER_WORD / 2 {
                let weights = codes.pair(s, lanes, pair as u32);
                for (j, weights) in (2 * pair..).zip(weights) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let x = &x[(i * groups + group) * C::PER_WORD + j];
                        *sum = s.mul_add(weights, s.load(x), *sum);
                    }
                }
            }
            let [scale, minimum] = group_scales::<S, MINIMA>(s, &spread, at + 16 * group);
            for (i, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                *total = s.mul_add(sum, scale, *total);
                if MINIMA {
                    *total = s.mul_add(s.load(&x_sums[i * groups + group]), minimum, *total);
                }
            }
        }
        out.iter_mut()
            .zip(totals)
            .for_each(|(out, total)| *out = s.sum(total));
    }
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
    with_codes!(s, w.layout().block_format(), |codes, MINIMA, _SMALLEST| {
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
    let layout = w.layout();
    let [n, k] = layout.shape();
    let scales = RowScales::decode::<S, MINIMA>(s, w, rows.start, rows.len());
    let spread_len = RowScales::spread_len(layout);
    let mut spread = unspread::<MINIMA>(layout, PASS);
    let (sums, _) = sums.as_chunks_mut::<16>();
    let groups = sums.len() / C::PER_WORD / m;
    for pass in rows.clone().step_by(PASS) {
        // A pass that is not full takes the last row again, times 0.
        let row = |p: usize| (pass + p).min(rows.end - 1);
        let mut at = [0; PASS];
        for (p, at) in at.iter_mut().enumerate() {
            *at = scales.spread::<MINIMA>(row(p), &mut spread, p * spread_len);
        }
        let words: [&[u32]; PASS] = std::array::from_fn(|p| {
            &w.packed()[row(p) * k / C::PER_WORD..(row(p) + 1) * k / C::PER_WORD]
        });
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
                scale[p] = group_scales::<S, MINIMA>(s, &spread, at[p] + 16 * group);
            }
            for j in 0..C::PER_WORD {
                let mut weights = [s.splat(0.0); PASS];
                for ((weights, lanes), scale) in weights.iter_mut().zip(lanes).zip(scale) {
                    let values = codes.values(s, lanes, j as u32);
                    *weights = scaled::<S, MINIMA>(s, values, scale);
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
