//! Attention of a position or a few, as in generation: keys and values are read where they lie.
//!
//! The keys that a position sees are attended in runs, and what the runs give is brought together ([Flash-Decoding]), so that threads
//! share a row with few heads. Runs are counted from the first key that the position sees: its bits depend neither on the
//! threads nor on what positions and rows are beside it.
//!
//! [Flash-Decoding]: https://crfm.stanford.edu/2023/10/12/flashdecoding.html

use std::{mem::MaybeUninit, ops::Range};

use super::first_keys::FirstKeys;
use super::heads::Operands;
use super::tile::{TileMask, softmax_step};
use crate::buffer::written;
use crate::cpu::Threads;
use crate::element::Element;
use crate::matmul::dense::DenseRef;
use crate::simd::math::{exp, mul_add};
use crate::simd::{Isa, Simd, kernel};
use nf4::attention::AttentionShape;

/// Keys of a run.
const KEYS: usize = 64;
/// Heads of a group that meet a key together.
const HEADS: usize = 4;
/// Keys and values ahead of those in work that are asked for: those of a head lie apart, so that a processor that looks for lines in
/// a row does not see them coming.
const AHEAD: usize = 32;
/// Vectors of a key or value that are in registers together.
const VECTORS: usize = 4;

/// Attends as [`forward`](super::forward()) does, a position at a time, to keys and values of any type.
///
/// # Panics
/// If the shapes of the operands do not fit each other.
pub fn forward<E: Element, K: Element>(
    isa: Isa,
    operands: &Operands<'_, E, K>,
) -> (Vec<E>, Vec<f32>) {
    let shape = operands.shape();
    let mut lse = vec![0f32; shape.batch * shape.q_len * shape.heads()];
    // SAFETY: `attend` writes what is attended at every position.
    let out = unsafe {
        written(lse.len() * shape.head_dim, |out| {
            attend(isa, operands, out, &mut lse);
        })
    };
    (out, lse)
}

/// Writes the output `[batch, q_len, heads, d]`, and the log-sum-exp of the scores, `[batch, q_len, heads]`.
fn attend<E: Element, K: Element>(
    isa: Isa,
    operands: &Operands<'_, E, K>,
    out: &mut [MaybeUninit<E>],
    lse: &mut [f32],
) {
    let shape = operands.shape();
    let (heads, d) = (shape.heads(), shape.head_dim);
    if out.is_empty() {
        return;
    }
    let window = operands.config.hiding_window(&shape);
    let first_keys = FirstKeys::new(operands.sequence_offsets, window, &shape);
    let positions = (0..shape.batch).flat_map(|row| (0..shape.q_len).map(move |i| (row, i)));
    let positions: Vec<_> = positions
        .map(|(row, i)| Position::new(isa, operands, &first_keys, row, i))
        .collect();
    let count = positions.iter().map(|position| position.runs.len()).sum();
    let mut attended = Attended::new(count, heads, d);
    let tasks = tasks(&positions, shape.q_len, attended.parts());
    Threads::All.share(tasks, |task| {
        for (position, keys, part) in task {
            position.attend(isa, operands, keys, part);
        }
    });

    let mut half = Vec::new();
    let mut first = 0;
    let results = out
        .chunks_exact_mut(heads * d)
        .zip(lse.chunks_exact_mut(heads));
    for (position, (out, lse)) in positions.iter().zip(results) {
        let runs = first..first + position.runs.len();
        first = runs.end;
        let (maxima, sums, values) = attended.of(runs);
        E::write(isa, out, &mut half, |out| {
            bring_together(isa, maxima, sums, values, d, out, lse);
        });
    }
}

/// Returns the bytes that [`forward`] needs beside its operands and results.
pub(super) fn workspace_bytes<E: Element>(shape: &AttentionShape) -> u128 {
    let heads = shape.heads() as u128;
    let d = shape.head_dim as u128;
    let runs = shape.kv_len.div_ceil(KEYS) as u128;
    let queries = heads * d * (size_of::<E::Operand>() + size_of::<f32>()) as u128;
    let attended = runs * heads * (d + 2) * size_of::<f32>() as u128;
    shape.batch as u128 * shape.q_len as u128 * (queries + attended)
}

/// A position of a row of the batch.
struct Position {
    row: usize,
    index: usize,
    /// `[heads, d]`.
    queries: Vec<f32>,
    /// The keys that it sees.
    runs: Vec<Range<usize>>,
}

/// Returns what one thread does after another: the runs in a place of all positions of a row, which have their keys in common.
fn tasks<'a>(
    positions: &'a [Position],
    q_len: usize,
    mut parts: impl Iterator<Item = Part<'a>>,
) -> Vec<Vec<(&'a Position, Range<usize>, Part<'a>)>> {
    let mut tasks = Vec::new();
    for of_row in positions.chunks(q_len) {
        let first = tasks.len();
        for position in of_row {
            let runs = position.runs.iter().zip(&mut parts).enumerate();
            for (place, (keys, part)) in runs {
                if tasks.len() <= first + place {
                    tasks.push(Vec::with_capacity(q_len));
                }
                tasks[first + place].push((position, keys.clone(), part));
            }
        }
    }
    tasks
}

/// What a run of keys gives, for every head.
struct Part<'a> {
    /// The largest score.
    maxima: &'a mut [f32],
    /// The sums of `exp(score − maximum)`.
    sums: &'a mut [f32],
    /// The sums of the values, each times its `exp(score − maximum)`: `[heads, d]`.
    values: &'a mut [f32],
}

/// The [`Part`]s of all runs.
struct Attended {
    maxima: Vec<f32>,
    sums: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    d: usize,
}

impl Attended {
    fn new(runs: usize, heads: usize, d: usize) -> Self {
        Self {
            maxima: vec![f32::NEG_INFINITY; runs * heads],
            sums: vec![0.0; runs * heads],
            values: vec![0.0; runs * heads * d],
            heads,
            d,
        }
    }

    fn parts(&mut self) -> impl Iterator<Item = Part<'_>> {
        let scalars = self.maxima.chunks_exact_mut(self.heads);
        let scalars = scalars.zip(self.sums.chunks_exact_mut(self.heads));
        let values = self.values.chunks_exact_mut(self.heads * self.d);
        scalars.zip(values).map(|((maxima, sums), values)| Part {
            maxima,
            sums,
            values,
        })
    }

    /// Returns maxima, sums and values of some runs.
    fn of(&mut self, runs: Range<usize>) -> (&mut [f32], &[f32], &[f32]) {
        let scalars = runs.start * self.heads..runs.end * self.heads;
        let values = scalars.start * self.d..scalars.end * self.d;
        (
            &mut self.maxima[scalars.clone()],
            &self.sums[scalars],
            &self.values[values],
        )
    }
}

impl Position {
    fn new<E: Element, K: Element>(
        isa: Isa,
        operands: &Operands<'_, E, K>,
        first_keys: &FirstKeys,
        row: usize,
        index: usize,
    ) -> Self {
        let shape = operands.shape();
        let heads = shape.heads();
        let place = index..index + 1;
        let mut gathered = vec![E::Operand::default(); heads * shape.head_dim];
        operands
            .q
            .gather(isa, row, place.clone(), 0..heads, &mut gathered);
        let mut queries = vec![0.0; gathered.len()];
        E::Operand::widen_slice(isa, &gathered, &mut queries);
        let first = first_keys.of(row, place).first().copied().unwrap_or(0);
        let visible = shape.visible(index);
        let starts = (first..visible).step_by(KEYS);
        Self {
            row,
            index,
            queries,
            runs: starts
                .map(|start| start..(start + KEYS).min(visible))
                .collect(),
        }
    }

    /// Attends to a run of keys with all heads.
    fn attend<E: Element, K: Element>(
        &self,
        isa: Isa,
        operands: &Operands<'_, E, K>,
        keys: Range<usize>,
        part: Part<'_>,
    ) {
        let shape = operands.shape();
        let d = shape.head_dim;
        let mask = TileMask::new(&shape, self.index, &keys, &[]);
        let mut scores = [0.0; HEADS * KEYS];
        for kv_head in 0..shape.kv_heads {
            let k = operands.k.positions(self.row, keys.clone(), kv_head);
            let v = operands.v.positions(self.row, keys.clone(), kv_head);
            let group = kv_head * shape.group..(kv_head + 1) * shape.group;
            for first in group.clone().step_by(HEADS) {
                let heads = first..(first + HEADS).min(group.end);
                let scores = &mut scores[..heads.len() * keys.len()];
                let values = &mut part.values[heads.start * d..heads.end * d];
                let q = &self.queries[heads.start * d..heads.end * d];
                dot_keys(isa, k, q, d, scores);
                let maxima = &mut part.maxima[heads.clone()];
                let sums = &mut part.sums[heads];
                softmax_step(isa, mask, operands.config, scores, maxima, sums, values, d);
                sum_values(isa, v, scores, d, values);
            }
        }
    }
}

kernel! {
    /// Computes the products of up to [`HEADS`] rows of `q`, `d` wide, with every key: `[rows of q, keys]`.
    fn dot_keys<E: Element>(k: DenseRef<'_, E>, q: &[f32], d: usize, dots: &mut [f32]) = dot_keys_with;

    /// Computes the sums of the values, each times its weight of `[rows, values]`: `[rows, d]`, up to [`HEADS`] rows.
    fn sum_values<E: Element>(v: DenseRef<'_, E>, weights: &[f32], d: usize, sums: &mut [f32]) = sum_values_with;

    /// Divides what all runs give together by the sum of the probabilities: `[heads, d]`. Of `maxima`, nothing is left.
    fn bring_together<S: Simd>(
        maxima: &mut [f32],
        sums: &[f32],
        values: &[f32],
        d: usize,
        out: &mut [MaybeUninit<f32>],
        lse: &mut [f32],
    ) {
        let heads = lse.len();
        for (head, (out, lse)) in out.chunks_exact_mut(d).zip(lse).enumerate() {
            let mut maximum = f32::NEG_INFINITY;
            for other in maxima.iter().skip(head).step_by(heads) {
                maximum = if *other > maximum { *other } else { maximum };
            }
            let mut sum = 0.0;
            let runs = maxima.iter_mut().zip(sums).skip(head).step_by(heads);
            for (maximum_of_run, sum_of_run) in runs {
                let factor = exp::<S>(*maximum_of_run - maximum);
                sum = mul_add::<S>(factor, *sum_of_run, sum);
                *maximum_of_run = factor;
            }
            *lse = maximum + sum.ln();
            let scale = 1.0 / sum;
            for (first, out) in (head * d..).step_by(16).zip(out.chunks_mut(16)) {
                let mut total = [0.0; 16];
                for (run, factor) in maxima.iter().skip(head).step_by(heads).enumerate() {
                    let values = &values[run * heads * d + first..][..out.len()];
                    for (total, value) in total.iter_mut().zip(values) {
                        *total = mul_add::<S>(*factor, *value, *total);
                    }
                }
                for (out, total) in out.iter_mut().zip(total) {
                    out.write(total * scale);
                }
            }
        }
    }
}

#[inline(always)]
fn dot_keys_with<S: Simd, E: Element>(
    s: S,
    k: DenseRef<'_, E>,
    q: &[f32],
    d: usize,
    dots: &mut [f32],
) {
    const { assert!(HEADS == 4) };
    match q.len() / d {
        1 => dot_keys_of::<S, E, 1>(s, k, q, d, dots),
        2 => dot_keys_of::<S, E, 2>(s, k, q, d, dots),
        3 => dot_keys_of::<S, E, 3>(s, k, q, d, dots),
        _ => dot_keys_of::<S, E, 4>(s, k, q, d, dots),
    }
}

#[inline(always)]
fn dot_keys_of<S: Simd, E: Element, const M: usize>(
    s: S,
    k: DenseRef<'_, E>,
    q: &[f32],
    d: usize,
    dots: &mut [f32],
) {
    let mut rows = [&q[..0]; M];
    for (row, values) in rows.iter_mut().zip(q.chunks_exact(d)) {
        *row = values;
    }
    for key in 0..k.row_count() {
        k.prefetch(key + AHEAD, 0..d);
        let (whole, rest) = k.row(key).as_chunks::<16>();
        let mut sums = [s.splat(0.0); M];
        for (at, key) in whole.iter().enumerate() {
            let key = E::load_16(s, key);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = s.mul_add(key, s.load(&row.as_chunks::<16>().0[at]), *sum);
            }
        }
        let mut results = s.sums(sums);
        for (result, row) in results.iter_mut().zip(rows) {
            let row = &row[d - rest.len()..];
            for (value, key) in row.iter().zip(rest) {
                *result = mul_add::<S>(*value, key.to_f32(), *result);
            }
        }
        for (row, result) in results.into_iter().enumerate() {
            dots[row * k.row_count() + key] = result;
        }
    }
}

#[inline(always)]
fn sum_values_with<S: Simd, E: Element>(
    s: S,
    v: DenseRef<'_, E>,
    weights: &[f32],
    d: usize,
    sums: &mut [f32],
) {
    const { assert!(HEADS == 4) };
    match sums.len() / d {
        1 => sum_values_of::<S, E, 1>(s, v, weights, d, sums),
        2 => sum_values_of::<S, E, 2>(s, v, weights, d, sums),
        3 => sum_values_of::<S, E, 3>(s, v, weights, d, sums),
        _ => sum_values_of::<S, E, 4>(s, v, weights, d, sums),
    }
}

#[inline(always)]
fn sum_values_of<S: Simd, E: Element, const M: usize>(
    s: S,
    v: DenseRef<'_, E>,
    weights: &[f32],
    d: usize,
    sums: &mut [f32],
) {
    let whole = d / 16;
    let mut vector = 0;
    while vector + VECTORS <= whole {
        sum_vectors::<S, E, M, VECTORS>(s, v, weights, vector, d, sums);
        vector += VECTORS;
    }
    while vector < whole {
        sum_vectors::<S, E, M, 1>(s, v, weights, vector, d, sums);
        vector += 1;
    }
    for column in 16 * whole..d {
        for (weights, sums) in weights
            .chunks_exact(v.row_count())
            .zip(sums.chunks_exact_mut(d))
        {
            let mut sum = 0.0;
            for (at, weight) in weights.iter().enumerate() {
                sum = mul_add::<S>(*weight, v.row(at)[column].to_f32(), sum);
            }
            sums[column] = sum;
        }
    }
}

/// Sums up `N` vectors of every value, from `first` on.
#[inline(always)]
fn sum_vectors<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    v: DenseRef<'_, E>,
    weights: &[f32],
    first: usize,
    d: usize,
    sums: &mut [f32],
) {
    let mut totals = [[s.splat(0.0); N]; M];
    for at in 0..v.row_count() {
        v.prefetch(at + AHEAD, 16 * first..16 * (first + N));
        let (vectors, _) = v.row(at)[16 * first..][..16 * N].as_chunks::<16>();
        for (i, vector) in vectors.iter().enumerate() {
            let value = E::load_16(s, vector);
            for (row, totals) in totals.iter_mut().enumerate() {
                let weight = s.splat(weights[row * v.row_count() + at]);
                totals[i] = s.mul_add(weight, value, totals[i]);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums.chunks_exact_mut(d)) {
        let (sums, _) = sums[16 * first..].as_chunks_mut::<16>();
        for (total, sum) in totals.iter().zip(sums) {
            s.store(*total, sum);
        }
    }
}
