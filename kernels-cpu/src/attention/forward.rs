use std::{mem::MaybeUninit, ops::Range};

use nf4::Direction;
use rayon::prelude::*;

use super::few_positions;
use super::first_keys::FirstKeys;
use super::heads::Operands;
use super::tile::{KEYS, TileMask, divide_rows, key_tiles, positions, softmax_step};
use crate::buffer::written;
use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::{Beta, FEW_ROWS};
use crate::simd::Isa;
use nf4::attention::AttentionShape;

/// Attends: the output `[batch, q_len, heads, d]`, and the log-sum-exp of every row of scores, `[batch, q_len, heads]`.
///
/// # Panics
/// If the shapes of the operands do not fit each other.
pub fn forward<E: Element>(isa: Isa, operands: &Operands<'_, E>) -> (Vec<E>, Vec<f32>) {
    let shape = operands.shape();
    if shape.q_len <= FEW_ROWS {
        return few_positions::forward(isa, operands);
    }
    let window = operands.config.hiding_window(&shape);
    let first_keys = FirstKeys::new(operands.sequence_offsets, window, &shape);
    let mut lse = vec![0f32; shape.batch * shape.q_len * shape.heads()];
    let pass = Pass {
        isa,
        operands,
        first_keys,
        shape,
    };
    let scratch = || Scratch::<E::Operand>::new(&shape);
    // SAFETY: the tasks make up the whole, and each writes every element of its part.
    let out = unsafe {
        written(lse.len() * shape.head_dim, |out| {
            let tasks = split(&shape, out, &mut lse);
            if tasks.len() < 2 {
                let mut scratch = scratch();
                tasks
                    .into_iter()
                    .for_each(|task| task.run(&pass, &mut scratch));
            } else {
                tasks
                    .into_par_iter()
                    .for_each_init(scratch, |scratch, task| task.run(&pass, scratch));
            }
        })
    };
    (out, lse)
}

/// Returns the bytes that [`forward`] needs on `threads` threads beside its operands and results.
pub fn forward_workspace_bytes<E: Element>(shape: &AttentionShape, threads: usize) -> u128 {
    if shape.q_len <= FEW_ROWS {
        return few_positions::workspace_bytes::<E>(shape);
    }
    threads as u128 * Scratch::<E::Operand>::bytes(shape)
}

/// The inputs of all tasks.
struct Pass<'a, E: Element> {
    isa: Isa,
    operands: &'a Operands<'a, E>,
    first_keys: FirstKeys,
    shape: AttentionShape,
}

/// A tile of query positions: one run of the output.
struct Task<'a, E> {
    batch: usize,
    positions: Range<usize>,
    /// `[positions, heads, d]`.
    out: &'a mut [MaybeUninit<E>],
    /// `[positions, heads]`.
    lse: &'a mut [f32],
}

/// Splits the output into tiles of positions.
fn split<'a, E>(
    shape: &AttentionShape,
    out: &'a mut [MaybeUninit<E>],
    lse: &'a mut [f32],
) -> Vec<Task<'a, E>> {
    let heads = shape.heads();
    let tile = positions(shape);
    let per_row = (shape.q_len * heads).max(1);
    let mut tasks = Vec::new();
    if lse.is_empty() {
        return tasks;
    }
    let batches = out
        .chunks_mut(per_row * shape.head_dim.max(1))
        .zip(lse.chunks_mut(per_row));
    for (batch, (out, lse)) in batches.enumerate() {
        let runs = out
            .chunks_mut(tile * heads * shape.head_dim.max(1))
            .zip(lse.chunks_mut(tile * heads));
        for (i, (out, lse)) in runs.enumerate() {
            tasks.push(Task {
                batch,
                positions: i * tile..((i + 1) * tile).min(shape.q_len),
                out,
                lse,
            });
        }
    }
    tasks
}

/// A thread's memory for any tile.
struct Scratch<O> {
    q: Vec<O>,
    scores: Vec<f32>,
    out: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
    half: Vec<f32>,
}

impl<O: Element> Scratch<O> {
    /// Returns the number of rows and keys of the largest tile.
    fn tile(shape: &AttentionShape) -> [usize; 2] {
        let rows = positions(shape).min(shape.q_len) * shape.group;
        [rows, shape.kv_len.min(KEYS)]
    }

    fn new(shape: &AttentionShape) -> Self {
        let [rows, keys] = Self::tile(shape);
        let d = shape.head_dim;
        Self {
            q: vec![O::default(); rows * d],
            scores: vec![0.0; rows * keys],
            out: vec![0.0; rows * d],
            maxima: vec![0.0; rows],
            sums: vec![0.0; rows],
            half: Vec::new(),
        }
    }

    fn bytes(shape: &AttentionShape) -> u128 {
        let [rows, keys] = Self::tile(shape).map(|n| n as u128);
        let d = shape.head_dim as u128;
        // `half` has the output of one position.
        let half = shape.group as u128 * d;
        rows * d * size_of::<O>() as u128
            + (rows * (keys + d + 2) + half) * size_of::<f32>() as u128
    }
}

impl<E: Element> Task<'_, E> {
    fn run(self, pass: &Pass<'_, E>, scratch: &mut Scratch<E::Operand>) {
        let Pass {
            isa,
            operands,
            first_keys,
            shape,
        } = pass;
        let isa = *isa;
        let (group, d) = (shape.group, shape.head_dim);
        let rows = self.positions.len() * group;
        let heads = shape.heads();
        let first_keys = first_keys.of(self.batch, self.positions.clone());
        let (scores, half) = (&mut scratch.scores, &mut scratch.half);
        let (q, out) = (&mut scratch.q[..rows * d], &mut scratch.out[..rows * d]);
        let (maxima, sums) = (&mut scratch.maxima[..rows], &mut scratch.sums[..rows]);

        for kv_head in 0..shape.kv_heads {
            let group_heads = kv_head * group..(kv_head + 1) * group;
            operands
                .q
                .gather(isa, self.batch, self.positions.clone(), group_heads, q);
            maxima.fill(f32::NEG_INFINITY);
            sums.fill(0.0);

            let mut beta = Beta::Zero;
            for keys in key_tiles(shape, self.positions.end - 1, first_keys) {
                let scores = &mut scores[..rows * keys.len()];
                let k = operands.k.positions(self.batch, keys.clone(), kv_head);
                let one = Cpu::new(isa, Threads::Calling);
                let forward = Direction::Forward;
                one.dense_matmul(k, q, rows, scores, forward, Beta::Zero);
                let mask = TileMask::new(shape, self.positions.start, &keys, first_keys);
                softmax_step(isa, mask, operands.config, scores, maxima, sums, out, d);
                let v = operands.v.positions(self.batch, keys, kv_head);
                one.dense_matmul(v, scores, rows, out, Direction::Transposed, beta);
                beta = Beta::One;
            }

            let first = kv_head * group;
            let positions = out.chunks_exact(group * d).zip(sums.chunks_exact(group));
            for (position, (from, sums)) in positions.enumerate() {
                let to = (position * heads + first) * d;
                E::write(isa, &mut self.out[to..][..group * d], half, |to| {
                    divide_rows(isa, from, sums, d, to);
                });
            }
            for (row, (max, sum)) in maxima.iter().zip(&*sums).enumerate() {
                self.lse[row / group * heads + first + row % group] = max + sum.ln();
            }
        }
    }
}
