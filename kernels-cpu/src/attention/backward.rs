use std::ops::Range;

use nf4::Direction;
use rayon::prelude::*;

use super::heads::{HeadsRef, Operands};
use super::sequences::SequenceOffsets;
use super::shape::AttentionShape;
use super::tile::{KEYS, TileMask, key_tiles, positions, probabilities, row_dots, score_gradients};
use crate::buffer::written;
use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::{Beta, DenseRef};
use crate::simd::Isa;

/// Tasks that are enough to keep many threads equally busy.
const TASKS: usize = 12;

/// The results of [`forward`](super::forward), and the gradient of its output.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a, E> {
    /// The output, `[batch, q_len, heads, d]`.
    pub out: HeadsRef<'a, E>,
    /// The log-sum-exp of every row, `[batch, q_len, heads]`.
    pub lse: &'a [f32],
    /// The gradient of the output, `[batch, q_len, heads, d]`.
    pub grad: HeadsRef<'a, E>,
}

/// Returns the gradients of `q`, `k` and `v`.
///
/// A (batch, key-value head) pair is one task, or one of a few where there are few pairs, so that the
/// sums over queries and over the heads of a group are made in one order.
///
/// # Panics
/// If the shapes of the operands do not fit each other.
pub fn backward<E: Element>(
    isa: Isa,
    operands: &Operands<'_, E>,
    results: &Results<'_, E>,
) -> [Vec<E>; 3] {
    let shape = operands.shape();
    let pass = Pass::<E> {
        isa,
        operands,
        results,
        offsets: SequenceOffsets::new(operands.sequence_offsets, &shape),
        shape,
    };
    let parts = parts(&shape);
    let gradients: Vec<_> = (0..shape.batch * shape.kv_heads * parts)
        .into_par_iter()
        .map_init(
            || Scratch::new(&shape),
            |scratch, task| pass.part(task / parts, task % parts, parts, scratch),
        )
        .collect();

    let tile = positions(&shape);
    // A position's dq is in the part that has its tile; every part has something of dk and dv.
    let part_of = |position: usize| position / tile % parts..position / tile % parts + 1;
    let all = |_| 0..parts;
    let tasks = Tasks {
        isa,
        gradients: &gradients,
        parts,
        shape,
    };
    let d = shape.head_dim;
    [
        tasks.interleave::<E>(|part| &part.dq, part_of, shape.q_len, shape.group * d),
        tasks.interleave::<E>(|part| &part.dk, all, shape.kv_len, d),
        tasks.interleave::<E>(|part| &part.dv, all, shape.kv_len, d),
    ]
}

/// Tasks of a (batch, key-value head) pair.
fn parts(shape: &AttentionShape) -> usize {
    let pairs = shape.batch * shape.kv_heads;
    let tiles = shape.q_len.div_ceil(positions(shape)).max(1);
    TASKS.div_ceil(pairs.max(1)).min(tiles)
}

/// Returns the bytes that [`backward`] needs on `threads` threads beside its operands and results: the gradients of every part in
/// f32, and what each thread needs for a tile. Of `dq` a part touches its own tiles only.
pub fn backward_workspace_bytes<E: Element>(shape: &AttentionShape, threads: usize) -> u128 {
    let pairs = shape.batch as u128 * shape.kv_heads as u128;
    let d = shape.head_dim as u128;
    let (dq, dkv) = (shape.rows() as u128 * d, 2 * shape.kv_len as u128 * d);
    let gradients = pairs * (dq + parts(shape) as u128 * dkv) * size_of::<f32>() as u128;
    gradients + threads as u128 * Scratch::<E::Operand>::bytes(shape)
}

/// The inputs of all tasks.
struct Pass<'a, E: Element> {
    isa: Isa,
    operands: &'a Operands<'a, E>,
    results: &'a Results<'a, E>,
    offsets: SequenceOffsets,
    shape: AttentionShape,
}

/// The gradients of one (batch, key-value head) pair from every `parts`-th tile of its queries.
struct Part {
    /// `[q_len, group, d]`, 0 in other parts' tiles. (Memory that nobody writes to takes no room.)
    dq: Vec<f32>,
    /// `[kv_len, d]`.
    dk: Vec<f32>,
    /// `[kv_len, d]`.
    dv: Vec<f32>,
}

/// A thread's memory for any tile.
struct Scratch<O> {
    q: Vec<O>,
    grad: Vec<O>,
    out: Vec<O>,
    p: Vec<f32>,
    dp: Vec<f32>,
    lse: Vec<f32>,
    deltas: Vec<f32>,
    halves: [Vec<f32>; 2],
}

impl<O: Element> Scratch<O> {
    /// Returns the number of rows and keys of the largest tile.
    fn tile(shape: &AttentionShape) -> [usize; 2] {
        let rows = positions(shape).min(shape.q_len) * shape.group;
        [rows, shape.kv_len.min(KEYS)]
    }

    fn new(shape: &AttentionShape) -> Self {
        let [rows, keys] = Self::tile(shape);
        let operand = || vec![O::default(); rows * shape.head_dim];
        Self {
            q: operand(),
            grad: operand(),
            out: operand(),
            p: vec![0.0; rows * keys],
            dp: vec![0.0; rows * keys],
            lse: vec![0.0; rows],
            deltas: vec![0.0; rows],
            halves: Default::default(),
        }
    }

    fn bytes(shape: &AttentionShape) -> u128 {
        let [rows, keys] = Self::tile(shape).map(|n| n as u128);
        let d = shape.head_dim as u128;
        // `halves` are in use where operands are not f32.
        let halves = if O::IN_PAIRS { 2 * rows * d } else { 0 };
        3 * rows * d * size_of::<O>() as u128
            + (2 * rows * (keys + 1) + halves) * size_of::<f32>() as u128
    }
}

impl<E: Element> Pass<'_, E> {
    fn part(
        &self,
        pair: usize,
        part: usize,
        parts: usize,
        scratch: &mut Scratch<E::Operand>,
    ) -> Part {
        let (isa, shape) = (self.isa, &self.shape);
        let Operands { k, v, scale, .. } = *self.operands;
        let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
        let (group, d) = (shape.group, shape.head_dim);
        let mut gradients = Part {
            dq: vec![0.0; shape.rows() * d],
            dk: vec![0.0; shape.kv_len * d],
            dv: vec![0.0; shape.kv_len * d],
        };
        let step = positions(shape);
        for start in (part * step..shape.q_len).step_by(parts * step) {
            let queries = start..(start + step).min(shape.q_len);
            let rows = queries.len() * group;
            let offsets = self.offsets.of(batch, queries.clone());
            self.load(batch, queries.clone(), kv_head, scratch);
            let (q, grad) = (&scratch.q[..rows * d], &scratch.grad[..rows * d]);
            let [q_rows, grad_rows] = [q, grad].map(|values| DenseRef::new(values, [rows, d]));
            let dq = &mut gradients.dq[start * group * d..][..rows * d];

            for keys in key_tiles(shape, queries.end - 1, offsets) {
                let width = keys.len();
                let k = k.positions(batch, keys.clone(), kv_head);
                let v = v.positions(batch, keys.clone(), kv_head);
                let range = keys.start * d..keys.end * d;
                let (dk, dv) = (&mut gradients.dk, &mut gradients.dv[range.clone()]);
                let (forward, one) = (Direction::Forward, Cpu::new(isa, Threads::Calling));

                let p = &mut scratch.p[..rows * width];
                one.dense_matmul(k, q, rows, p, forward, Beta::Zero);
                let mask = TileMask::new(shape, start, &keys, offsets);
                probabilities(isa, mask, scale, p, &scratch.lse[..rows]);
                one.dense_transposed_matmul(grad_rows, p, width, dv, Beta::One);

                let ds = &mut scratch.dp[..rows * width];
                one.dense_matmul(v, grad, rows, ds, forward, Beta::Zero);
                score_gradients(isa, p, width, &scratch.deltas[..rows], ds);
                let transposed = Direction::Transposed;
                one.dense_matmul(k, ds, rows, dq, transposed, Beta::One);
                one.dense_transposed_matmul(q_rows, ds, width, &mut dk[range], Beta::One);
            }
            dq.iter_mut().for_each(|value| *value *= scale);
        }
        gradients.dk.iter_mut().for_each(|value| *value *= scale);
        gradients
    }

    /// Copies a tile's rows: queries, output gradients, log-sum-exps and
    /// `rowsum(grad ∘ out)`.
    fn load(
        &self,
        batch: usize,
        queries: Range<usize>,
        kv_head: usize,
        scratch: &mut Scratch<E::Operand>,
    ) {
        let shape = &self.shape;
        let rows = queries.len() * shape.group;
        let heads = kv_head * shape.group..(kv_head + 1) * shape.group;
        for (view, to) in [
            (&self.operands.q, &mut scratch.q),
            (&self.results.grad, &mut scratch.grad),
            (&self.results.out, &mut scratch.out),
        ] {
            view.gather(self.isa, batch, queries.clone(), heads.clone(), to);
        }
        let values = rows * shape.head_dim;
        let [grad, out] = &mut scratch.halves;
        let grad = E::Operand::read(self.isa, &scratch.grad[..values], grad);
        let out = E::Operand::read(self.isa, &scratch.out[..values], out);
        row_dots(
            self.isa,
            grad,
            out,
            shape.head_dim,
            &mut scratch.deltas[..rows],
        );
        let lse = scratch.lse.chunks_exact_mut(shape.group);
        for (position, lse) in queries.clone().zip(lse) {
            let first = (batch * shape.q_len + position) * shape.heads() + heads.start;
            lse.copy_from_slice(&self.results.lse[first..][..shape.group]);
        }
    }
}

/// The gradients of all tasks: the parts of the first pair, those of the second, ...
struct Tasks<'a> {
    isa: Isa,
    gradients: &'a [Part],
    parts: usize,
    shape: AttentionShape,
}

impl Tasks<'_> {
    /// Lays the values `[len, width]` of each pair out as `[batch, len, kv_heads, width]`. At a position they are the sum
    /// of those of the parts that `parts_at` names.
    fn interleave<E: Element>(
        &self,
        values: impl Fn(&Part) -> &Vec<f32> + Sync,
        parts_at: impl Fn(usize) -> Range<usize> + Sync,
        len: usize,
        width: usize,
    ) -> Vec<E> {
        let row = self.shape.kv_heads * width;
        let total = self.shape.batch * len * row;
        let pairs = self.gradients.chunks(self.parts);
        let pairs: Vec<_> = pairs.collect();
        // SAFETY: the rows make up the whole; each pair's first part writes every element of its share.
        unsafe {
            written(total, |all| {
                let rows = all.par_chunks_mut(row.max(1)).enumerate();
                rows.with_min_len(64)
                    .for_each_init(Vec::new, |half, (i, to)| {
                        let (batch, position) = (i / len, i % len);
                        let pairs = &pairs[batch * self.shape.kv_heads..];
                        let parts = parts_at(position);
                        E::write(self.isa, to, half, |to| {
                            for (pair, to) in pairs.iter().zip(to.chunks_exact_mut(width)) {
                                let from = |part| &values(&pair[part])[position * width..][..width];
                                let first = from(parts.start);
                                for (i, to) in to.iter_mut().enumerate() {
                                    let more = parts.clone().skip(1).map(|part| from(part)[i]);
                                    to.write(more.fold(first[i], |sum, value| sum + value));
                                }
                            }
                        });
                    });
            })
        }
    }
}
