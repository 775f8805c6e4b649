//! The product for up to [`MAX_ROWS`] rows, bound by reading the packed words where memory is slow.
//!
//! 16 consecutive words of a row are 128 weights. Shifted by `4 j` and looked up they are the weights `8 l + j` in lane
//! `l`; so `x` (or the output) is kept in that order, and words need no rearranging. A row is taken to
//! end with as many zero words as fill the last 16.
//!
//! - `blocks`: the same for the blocks of a file
//! - `bytes`: the product of blocks of bytes in integers
//! - `dense`: the product with a matrix that is not quantized
//! - `dot`: the products of words with what meets them, whatever they stand for

mod blocks;
pub(super) mod bytes;
pub(super) mod dense;
mod dot;

use std::mem::MaybeUninit;

use crate::blocks::codes::Nibbles;
use crate::buffer::{Line, lines};
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::double_quant::decode_scales;
use crate::element::Element;
use crate::simd::{Simd, kernel};
use dot::{GroupScales, NibblePairs, Products, Single, WordRows};
use nf4::{Direction, MatrixRef};

/// Up to this many rows the decoded weights are used straight from the register they were decoded in: a decoded
/// vector then serves so few rows that storing it would cost more than it saves.
pub(super) const MAX_ROWS: usize = 8;

/// Weights in a group of 16 words.
const GROUP: usize = 128;
/// Weights a task reads at least, so that starting it does not show.
const TASK: usize = 64 * 1024;
/// Weights a task of the product that is not transposed reads at least. Its results do not depend on where it is cut.
const SMALLEST_TASK: usize = 16 * 1024;
/// Tasks for each thread, where there is work for them: so many that a thread that was late has one less.
const TASKS_PER_THREAD: usize = 4;
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
    match (CodebookRef::of(w), direction) {
        (Some(w), Direction::Forward) => {
            let in_pairs = E::IN_PAIRS && cpu.isa.multiplies_pairs();
            forward(cpu, w, in_pairs, x, m, &mut out);
        }
        (Some(w), Direction::Transposed) => transposed(cpu, w, x, m, &mut out),
        (None, Direction::Forward) => blocks::forward(cpu, w, x, m, &mut out),
        (None, Direction::Transposed) => blocks::transposed(cpu, w, x, m, &mut out),
    }
    y.iter_mut()
        .zip(out)
        .for_each(|(y, value)| _ = y.write(E::from_f32(value)));
}

/// Writes `y = x·Wᵀ`. In pairs, `x` holds bf16, and the values of the codes are rounded to it.
fn forward(cpu: Cpu, w: CodebookRef<'_>, in_pairs: bool, x: &[f32], m: usize, y: &mut [f32]) {
    let k = w.in_features();
    let x = if in_pairs {
        interleaved_pairs(x, k)
    } else {
        interleaved::<8>(x, k)
    };
    let x = bytemuck::cast_slice(&x);
    by_rows(cpu, w.shape(), m, y, |first, out| {
        dot_rows(cpu.isa, w, in_pairs, first, x, m, out);
    });
}

/// Writes `y: [m, n]` for W of shape `[n, k]`; the tasks are rows of W. `dots` computes their products `[row of W][m]` from
/// a row on.
fn by_rows(
    cpu: Cpu,
    [n, k]: [usize; 2],
    m: usize,
    y: &mut [f32],
    dots: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = n
        .div_ceil(TASKS_PER_THREAD * cpu.threads.count())
        .max(SMALLEST_TASK.div_ceil(k))
        .next_multiple_of(PASS);
    // Results of a task are contiguous as `[row of W][m]`, and for one row of `x` that is `y` itself.
    let mut transposed = vec![0.0; if m == 1 { 0 } else { y.len() }];
    let out = if m == 1 { &mut *y } else { &mut transposed };
    let tasks = out.chunks_mut(rows * m).enumerate().collect();
    cpu.threads
        .share(tasks, |(task, out)| dots(task * rows, out));
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

/// Writes `y = x·W`.
fn transposed(cpu: Cpu, w: CodebookRef<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    by_partials::<8>(cpu, w.shape(), m, y, |first, rows, sums| {
        add_rows(cpu.isa, w, first, rows, x, m, sums);
    });
}

/// Writes `y: [m, k]` for W of shape `[n, k]`; the tasks are runs of rows of W with sums of their own, which are then added
/// up in order. `add` adds what some rows from a first one on contribute to interleaved sums.
fn by_partials<const PER_WORD: usize>(
    cpu: Cpu,
    shape @ [n, k]: [usize; 2],
    m: usize,
    y: &mut [f32],
    add: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let rows = rows_per_partial(shape);
    let padded = k.next_multiple_of(16 * PER_WORD);
    let mut partials = vec![0.0; n.div_ceil(rows) * m * padded];
    let tasks = partials.chunks_mut(m * padded).enumerate().collect();
    cpu.threads
        .share(tasks, |(task, sums): (usize, &mut [f32])| {
            let first = task * rows;
            add(first, rows.min(n - first), sums);
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
            *y = total[position::<PER_WORD>(i)];
        }
    }
}

/// Returns where column `i` lies in the interleaved order of words of `PER_WORD` codes.
const fn position<const PER_WORD: usize>(i: usize) -> usize {
    let group = 16 * PER_WORD;
    i / group * group + i % PER_WORD * 16 + i % group / PER_WORD
}

/// Returns rows of `k` elements in the interleaved order, each filled with zeros to whole groups.
fn interleaved<const PER_WORD: usize>(rows: &[f32], k: usize) -> Vec<Line> {
    let padded = k.next_multiple_of(16 * PER_WORD);
    let mut interleaved = lines(rows.len() / k * padded);
    let out: &mut [f32] = bytemuck::cast_slice_mut(&mut interleaved);
    for (out, row) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(k)) {
        let groups = out.chunks_exact_mut(16 * PER_WORD);
        for (out, row) in groups.zip(row.chunks(16 * PER_WORD)) {
            let (words, rest) = row.as_chunks::<PER_WORD>();
            for (lane, word) in words.iter().enumerate() {
                for (j, value) in word.iter().enumerate() {
                    out[16 * j + lane] = *value;
                }
            }
            for (j, value) in rest.iter().enumerate() {
                out[16 * j + words.len()] = *value;
            }
        }
    }
    interleaved
}

/// Returns rows of `k` bf16 in the order in which [`NibblePairs`] meets them, each filled with zeros to whole groups.
fn interleaved_pairs(rows: &[f32], k: usize) -> Vec<Line> {
    let padded = k.next_multiple_of(GROUP) / 2;
    let mut interleaved = lines(rows.len() / k * padded);
    let out: &mut [u32] = bytemuck::cast_slice_mut(&mut interleaved);
    for (out, row) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(k)) {
        let groups = out.chunks_exact_mut(GROUP / 2);
        for (out, row) in groups.zip(row.chunks(GROUP)) {
            // Rows are whole words.
            let (words, _) = row.as_chunks::<8>();
            for (lane, word) in words.iter().enumerate() {
                let (first, second) = word.split_at(4);
                for (j, (first, second)) in first.iter().zip(second).enumerate() {
                    out[16 * j + lane] = first.to_bf16_bits() | second.to_bf16_bits() << 16;
                }
            }
        }
    }
    interleaved
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
    /// Computes `out: [rows of W][m]` from `first` on.
    fn dot_rows(w: CodebookRef<'_>, in_pairs: bool, first: usize, x: &[u32], m: usize, out: &mut [f32]) = dot;
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
