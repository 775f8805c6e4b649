//! The product for up to [`MAX_ROWS`] rows, bound by reading the packed words where memory is slow.
//!
//! 16 consecutive words of a row are 128 weights. Shifted by `4 j` and looked up they are the weights `8 l + j` in lane
//! `l`; so `x` (or the output) is kept in that order, and words need no rearranging. A row is taken to
//! end with as many zero words as fill the last 16.
//!
//! - `layers`: the layers of one input
//! - `codebook`: a matrix in the codes of a codebook
//! - `blocks`: the same for the blocks of a file
//! - `bytes`: the product of blocks of bytes in integers
//! - `dense`: the product with a matrix that is not quantized
//! - `dot`: the products of words with what meets them, whatever they stand for

mod blocks;
pub(super) mod bytes;
mod codebook;
pub(super) mod dense;
mod dot;
mod layers;

use std::mem::MaybeUninit;

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
    let mut results = Results::new(y, m);
    let tasks = results.tasks(rows_per_task(cpu, n * k, k)).collect();
    cpu.threads.share(tasks, |(first, out)| dots(first, out));
    results.arrange();
}

/// Returns the rows of W, of `k` weights each, that one task multiplies where there are `weights` in all.
fn rows_per_task(cpu: Cpu, weights: usize, k: usize) -> usize {
    weights
        .div_ceil(TASKS_PER_THREAD * cpu.threads.count())
        .max(SMALLEST_TASK)
        .div_ceil(k)
        .next_multiple_of(PASS)
}

/// The results of a product, `[m, n]`, which its tasks compute as `[row of W][m]`.
struct Results<'a> {
    y: &'a mut [f32],
    m: usize,
    /// Those of all tasks; of one row of `x` they are `y` itself.
    transposed: Vec<f32>,
}

impl<'a> Results<'a> {
    fn new(y: &'a mut [f32], m: usize) -> Self {
        Self {
            transposed: vec![0.0; if m == 1 { 0 } else { y.len() }],
            y,
            m,
        }
    }

    /// Returns the first row of each task, and its results.
    fn tasks(&mut self, rows: usize) -> impl Iterator<Item = (usize, &mut [f32])> {
        let out = if self.m == 1 {
            &mut *self.y
        } else {
            &mut self.transposed
        };
        let tasks = out.chunks_mut(rows * self.m).enumerate();
        tasks.map(move |(task, out)| (task * rows, out))
    }

    /// Puts what the tasks have computed where it belongs.
    fn arrange(self) {
        let n = self.y.len() / self.m;
        for (j, row) in self.transposed.chunks(self.m).enumerate() {
            for (i, value) in row.iter().enumerate() {
                self.y[i * n + j] = *value;
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
