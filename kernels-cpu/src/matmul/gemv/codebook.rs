//! The product for few rows with a matrix in the codes of a codebook.
//!
//! In pairs, `x` holds bf16, and the values of the codes are rounded to it.

use super::dot::{GroupScales, NibblePairs, Products, Single, WordRows};
use super::{GROUP, MAX_ROWS, PASS, by_partials, group_words};
use crate::blocks::codes::Nibbles;
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::double_quant::decode_scales;
use crate::simd::{Simd, kernel};

/// Writes `y = x·W`.
pub(super) fn transposed(cpu: Cpu, w: CodebookRef<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    by_partials::<8>(cpu, w.shape(), m, y, |first, rows, sums| {
        add_rows(cpu.isa, w, first, rows, x, m, sums);
    });
}

/// The scales of some rows, decoded together and spread to one a word.
struct RowScales<'a> {
    w: CodebookRef<'a>,
    first_block: usize,
    scales: Vec<f32>,
}

impl<'a> RowScales<'a> {
    #[inline(always)]
    fn decode<S: Simd>(s: S, w: CodebookRef<'a>, first_row: usize, rows: usize) -> Self {
        let (k, size) = (w.in_features(), w.block_size());
        let blocks = first_row * k / size..((first_row + rows) * k).div_ceil(size);
        let mut scales = vec![0.0; blocks.len()];
        decode_scales(s, w.scales(), blocks.start, &mut scales);
        Self {
            w,
            first_block: blocks.start,
            scales,
        }
    }

    /// Returns the elements that [`RowScales::spread`] needs: the words of all blocks of a row, and those of the last group.
    fn spread_len(w: CodebookRef<'_>) -> usize {
        w.in_features() / 8 + 2 * w.block_size() / 8 + GROUP / 8
    }

    /// Writes the scale of every word of `row`; returns where the row's first word is.
    #[inline(always)]
    fn spread(&self, row: usize, out: &mut [f32]) -> usize {
        let (k, size) = (self.w.in_features(), self.w.block_size());
        let blocks = row * k / size..((row + 1) * k).div_ceil(size);
        let scales = &self.scales[blocks.start - self.first_block..blocks.end - self.first_block];
        // Blocks have at least 32 elements: four words.
        let (out, _) = out.as_chunks_mut::<4>();
        for (scale, out) in scales.iter().zip(out.chunks_exact_mut(size / 32)) {
            out.iter_mut().for_each(|out| *out = [*scale; 4]);
        }
        row * k % size / 8
    }
}

kernel! {
    /// Computes `out: [rows of W][m]` from `first` on.
    pub(super) fn dot_rows(w: CodebookRef<'_>, in_pairs: bool, first: usize, x: &[u32], m: usize, out: &mut [f32]) = dot;
}

#[inline(always)]
fn dot<S: Simd>(
    s: S,
    w: CodebookRef<'_>,
    in_pairs: bool,
    first: usize,
    x: &[u32],
    m: usize,
    out: &mut [f32],
) {
    let values = w.codebook().values();
    if in_pairs {
        dot_with(s, NibblePairs::new(values), w, first, x, m, out);
    } else {
        dot_with(s, Single(Nibbles::new(s, values)), w, first, x, m, out);
    }
}

#[inline(always)]
fn dot_with<S: Simd, P: Products<S>>(
    s: S,
    codes: P,
    w: CodebookRef<'_>,
    first: usize,
    x: &[u32],
    m: usize,
    out: &mut [f32],
) {
    let scales = LaneScales::decode(s, w, first, out.len() / m);
    let rows = WordRows::new::<S>(codes, scales, w.packed(), w.in_features(), first);
    rows.dot::<false, S>(s, x, &[], m, out);
}

/// The scales of some rows, decoded together, and spread to the words of a group in registers.
struct LaneScales<S: Simd> {
    /// Words in a block, as a power of two.
    block_words: u32,
    row_words: usize,
    /// Words from the beginning of a block to that of the first row.
    before: usize,
    /// Blocks from that of a group's first word on, for each of its words, if blocks begin where groups do.
    lanes: Option<S::U>,
    /// As many zeros as a table reads behind the last.
    scales: Vec<f32>,
}

const LANES: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl<S: Simd> LaneScales<S> {
    #[inline(always)]
    fn decode(s: S, w: CodebookRef<'_>, first_row: usize, rows: usize) -> Self {
        let (k, size) = (w.in_features(), w.block_size());
        let blocks = first_row * k / size..((first_row + rows) * k).div_ceil(size);
        let mut scales = vec![0.0; blocks.len() + 16];
        decode_scales(s, w.scales(), blocks.start, &mut scales[..blocks.len()]);
        let block_words = (size / 8).ilog2();
        let begin_together = k.is_multiple_of(size) && size <= GROUP;
        let lanes = s.shift_right(s.load_u(&LANES), block_words);
        Self {
            block_words,
            row_words: k / 8,
            before: first_row * k % size / 8,
            lanes: begin_together.then_some(lanes),
            scales,
        }
    }
}

impl<S: Simd> GroupScales<S> for LaneScales<S> {
    #[inline(always)]
    fn of_group<const MINIMA: bool>(&self, s: S, row: usize, group: usize) -> [S::F; 2] {
        let word = self.before + row * self.row_words + 16 * group;
        let block = word >> self.block_words;
        // A block has at least four words, so that the group's are fewer than 16.
        let scales = self.scales[block..].first_chunk();
        let table = s.table(scales.expect("there are 16 values more than blocks"));
        let lanes = self.lanes.unwrap_or_else(|| {
            let within = (word - (block << self.block_words)) as u32;
            let lanes = s.add_u(s.load_u(&LANES), s.splat_u(within));
            s.shift_right(lanes, self.block_words)
        });
        [s.lookup(table, lanes), s.splat(0.0)]
    }
}

kernel! {
    /// Adds rows of `W`, each times its element of `x: [m, n]`, to the interleaved `sums: [m, k filled]`.
    fn add_rows(w: CodebookRef<'_>, first: usize, rows: usize, x: &[f32], m: usize, sums: &mut [f32]) = add;
}

#[inline(always)]
fn add<S: Simd>(
    s: S,
    w: CodebookRef<'_>,
    first: usize,
    rows: usize,
    x: &[f32],
    m: usize,
    sums: &mut [f32],
) {
    let [n, k] = w.shape();
    let table = s.table(w.codebook().values());
    let scales = RowScales::decode(s, w, first, rows);
    let spread_len = RowScales::spread_len(w);
    let mut spread = vec![0.0; PASS * spread_len];
    let (sums, _) = sums.as_chunks_mut::<16>();
    let (sums, _) = sums.as_chunks_mut::<8>();
    let groups = sums.len() / m;
    for pass in (first..first + rows).step_by(PASS) {
        // A pass that is not full takes the last row again, times 0.
        let row = |p: usize| (pass + p).min(first + rows - 1);
        let mut at = [0; PASS];
        for (p, spread) in spread.chunks_exact_mut(spread_len).enumerate() {
            at[p] = p * spread_len + scales.spread(row(p), spread);
        }
        let words: [&[u32]; PASS] =
            std::array::from_fn(|p| &w.packed()[row(p) * k / 8..(row(p) + 1) * k / 8]);
        let mut factors = [[0.0; PASS]; MAX_ROWS];
        for (i, factors) in factors.iter_mut().enumerate().take(m) {
            for (p, factor) in factors.iter_mut().enumerate().take(first + rows - pass) {
                *factor = x[i * n + pass + p];
            }
        }
        for group in 0..groups {
            let mut codes = [s.splat_u(0); PASS];
            let mut scale = [s.splat(0.0); PASS];
            for p in 0..PASS {
                codes[p] = group_words(s, words[p], group);
                let lanes = spread[at[p] + 16 * group..].first_chunk();
                scale[p] = s.load(lanes.expect("spread_len counts the last group"));
            }
            for j in 0..8u32 {
                let mut weights = scale;
                for (weights, codes) in weights.iter_mut().zip(codes) {
                    *weights = s.mul(s.lookup(table, s.shift_right(codes, 4 * j)), *weights);
                }
                for (i, factors) in factors[..m].iter().enumerate() {
                    let to = &mut sums[i * groups + group][j as usize];
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
