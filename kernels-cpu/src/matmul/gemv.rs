//! The product for up to [`MAX_ROWS`] rows, bound by reading the packed words where memory is slow.
//!
//! 16 consecutive words of a row are 128 weights. Shifted by `4 j` and looked up they are the weights `8 l + j` in lane
//! `l`; so `x` (or the output) is kept in that order, and words need no rearranging. A row is taken to
//! end with as many zero words as fill the last 16.
//!
//! - `layers`: the layers of one input
//! - `codebook`: a matrix in the codes of a codebook
//! - `blocks`: the same for the blocks of a file
//! - `bytes`: a matrix of bytes, a scale a row, and its product in integers
//! - `dense`: the product with a matrix that is not quantized
//! - `dot`: the products of words with what meets them, whatever they stand for

mod blocks;
pub(super) mod bytes;
mod codebook;
pub(super) mod dense;
mod dot;
mod layers;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::output::{Output, SharedOutput};
use crate::buffer::{Line, lines};
use crate::codebook::CodebookRef;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::simd::Simd;
use nf4::{Direction, MatrixRef};

pub(super) use layers::forward;

/// Up to this many rows the decoded weights are used straight from the register they were decoded in: a decoded
/// vector then serves so few rows that storing it would cost more than it saves.
pub(super) const MAX_ROWS: usize = 8;

/// Weights in a group of 16 words.
const GROUP: usize = 128;
/// Weights a task reads at least, so that starting it does not show.
const TASK: usize = 64 * 1024;
/// Weights of a task of the product that is not transposed: in its end a thread takes one at a time, and may be waited for. Results
/// do not depend on where it is cut.
const FORWARD_TASK: usize = 16 * 1024;
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
        Direction::Forward => {
            rows_taken(m) * k.next_multiple_of(GROUP) + if m == 1 { n } else { 2 * m * n }
        }
        Direction::Transposed => {
            n.div_ceil(rows_per_partial(shape)) * m * k.next_multiple_of(GROUP) + m * k
        }
    };
    (widened + sums) * size_of::<f32>()
}

/// Writes every value of `y = x·W`.
pub(super) fn transposed<E: Element>(
    cpu: Cpu,
    w: MatrixRef<'_>,
    x: &[E],
    m: usize,
    y: &mut [MaybeUninit<E>],
) {
    let mut widened = Vec::new();
    let x = E::read(cpu.isa, x, &mut widened);
    let mut out = vec![0.0; y.len()];
    match CodebookRef::of(w) {
        Some(w) => codebook::transposed(cpu, w, x, m, &mut out),
        None => blocks::transposed(cpu, w, x, m, &mut out),
    }
    E::narrow_slice(cpu.isa, &out, y);
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
    let columns = Columns::new(y, n, rows_per_task(k));
    cpu.threads.share_ranges(columns.tasks(), |tasks| {
        // SAFETY: every task comes once.
        unsafe { columns.fill(&tasks, m, &dots) };
    });
}

/// Returns the rows of W, of `k` weights each, that one task multiplies.
fn rows_per_task(k: usize) -> usize {
    FORWARD_TASK.div_ceil(k).next_multiple_of(PASS)
}

/// The columns of a result `[m, n]`, which tasks write, each those of some rows of W.
#[derive(Clone, Copy)]
struct Columns {
    /// Of values, which tasks write over.
    y: SharedOutput<f32>,
    /// Of a task.
    rows: usize,
}

impl Columns {
    /// Shares `y: [m, n]` between tasks of `rows` rows of W.
    fn new(y: &mut [f32], n: usize, rows: usize) -> Self {
        let y = SharedOutput::new(Output::Add(y), n);
        Self { y, rows }
    }

    fn tasks(self) -> usize {
        self.y.n().div_ceil(self.rows)
    }

    /// Returns the rows of W of some tasks.
    fn rows(self, tasks: &Range<usize>) -> Range<usize> {
        let n = self.y.n();
        (tasks.start * self.rows).min(n)..(tasks.end * self.rows).min(n)
    }

    /// Returns the columns of some tasks in row `i` of the result.
    ///
    /// # Safety
    /// The result is still borrowed, it has the row, and no other thread does one of the tasks meanwhile.
    unsafe fn of<'a>(self, tasks: &Range<usize>, i: usize) -> &'a mut [f32] {
        let rows = self.rows(tasks);
        // SAFETY: tasks have columns of their own, and the caller is alone with these. All of them are values.
        unsafe { self.y.columns(i, rows.start, rows.len()).assume_init_mut() }
    }

    /// Puts the products that `dots` computes, `[row of W][m]` from a row on, into the columns of some tasks.
    ///
    /// # Safety
    /// As of [`of`](Self::of), for all `m` rows of the result.
    unsafe fn fill(self, tasks: &Range<usize>, m: usize, dots: impl Fn(usize, &mut [f32])) {
        let rows = self.rows(tasks);
        if m == 1 {
            // SAFETY: the caller's promise.
            return dots(rows.start, unsafe { self.of(tasks, 0) });
        }
        let mut products = vec![0.0; m * rows.len()];
        dots(rows.start, &mut products);
        for i in 0..m {
            // SAFETY: the caller's promise.
            let columns = unsafe { self.of(tasks, i) };
            for (column, products) in columns.iter_mut().zip(products.chunks_exact(m)) {
                *column = products[i];
            }
        }
    }
}

/// Returns the rows of W that one partial result of the transposed product sums up.
fn rows_per_partial([n, k]: [usize; 2]) -> usize {
    TASK.div_ceil(k)
        .max(n.div_ceil(MAX_PARTIALS))
        .next_multiple_of(PASS)
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

/// Returns the rows of `x` that a kernel takes where there are `m`: those that are missing are zeros.
const fn rows_taken(m: usize) -> usize {
    const { assert!(MAX_ROWS == 8) };
    match m {
        1 => 1,
        2 => 2,
        3..=4 => 4,
        5..=6 => 6,
        _ => 8,
    }
}

/// Returns rows of `k` elements in the interleaved order, `[groups][rows taken]`, each filled with zeros to whole groups.
fn interleaved<const PER_WORD: usize>(rows: &[f32], k: usize) -> Vec<Line> {
    by_groups(rows, k, PER_WORD, PER_WORD, |word, out, lane| {
        for (j, value) in word.iter().enumerate() {
            out[16 * j + lane] = value.to_bits();
        }
    })
}

/// Returns rows of `k` values, the nearest bf16 of each, in the order in which [`dot::NibblePairs`] meets them, as [`interleaved`]
/// does.
fn interleaved_pairs<E: Element>(rows: &[E], k: usize) -> Vec<Line> {
    by_groups(rows, k, 8, 4, |word, out, lane| {
        // Rows are whole words.
        let (first, second) = word.split_at(4);
        for (j, (first, second)) in first.iter().zip(second).enumerate() {
            out[16 * j + lane] = first.to_bf16_bits() | second.to_bf16_bits() << 16;
        }
    })
}

/// Returns rows in groups of 16 words of `per_word` values, `vectors` vectors each; `put` puts the values of a word into its lane
/// of a group.
fn by_groups<E>(
    rows: &[E],
    k: usize,
    per_word: usize,
    vectors: usize,
    put: impl Fn(&[E], &mut [u32], usize),
) -> Vec<Line> {
    let (group, taken) = (16 * vectors, rows_taken(rows.len() / k));
    let mut lines = lines(k.div_ceil(16 * per_word) * taken * group);
    let out: &mut [u32] = bytemuck::cast_slice_mut(&mut lines);
    for (i, row) in rows.chunks_exact(k).enumerate() {
        let groups = out.chunks_exact_mut(taken * group);
        for (out, row) in groups.zip(row.chunks(16 * per_word)) {
            let out = &mut out[i * group..][..group];
            for (lane, word) in row.chunks(per_word).enumerate() {
                put(word, out, lane);
            }
        }
    }
    lines
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
