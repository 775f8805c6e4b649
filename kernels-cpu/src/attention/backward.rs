use std::ops::Range;

use nf4::Direction;
use rayon::prelude::*;

use super::first_keys::FirstKeys;
use super::heads::{HeadsRef, Operands};
use super::parts::Parts;
use super::tile::{
    KEYS, TileMask, key_tiles, multiply, positions, probabilities, row_dots, score_gradients,
};
use crate::buffer::written;
use crate::cpu::{Cpu, Threads};
use crate::element::Element;
use crate::matmul::dense::{Beta, DenseRef};
use crate::simd::Isa;
use nf4::attention::{AttentionConfig, AttentionShape};

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
    let window = operands.config.hiding_window(&shape);
    let parts = Parts::new(&shape, window);
    let pass = Pass::<E> {
        isa,
        operands,
        results,
        first_keys: FirstKeys::new(operands.sequence_offsets, window, &shape),
        shape,
        parts,
    };
    let count = parts.count();
    let gradients: Vec<_> = (0..shape.batch * shape.kv_heads * count)
        .into_par_iter()
        .map_init(
            || Scratch::new(&shape, operands.config),
            |scratch, task| pass.part(task / count, task % count, scratch),
        )
        .collect();

    let tasks = Tasks {
        isa,
        gradients: &gradients,
        count,
        shape,
    };
    let d = shape.head_dim;
    // A position's dq is in the part that has its tile; every part has something of dk and dv for the keys it sees.
    let part_of = |position| parts.of_query(position)..parts.of_query(position) + 1;
    let parts_of = |key| parts.of_key(key);
    [
        tasks.interleave::<E>(|part| &part.dq, part_of, shape.q_len, shape.group * d),
        tasks.interleave::<E>(|part| &part.dk, parts_of, shape.kv_len, d),
        tasks.interleave::<E>(|part| &part.dv, parts_of, shape.kv_len, d),
    ]
}

/// Returns the bytes that [`backward`] needs on `threads` threads beside its operands and results: the gradients of every part in
/// f32, and what each thread needs for a tile. Of `dq` a part touches its own tiles only.
pub fn backward_workspace_bytes<E: Element>(
    shape: &AttentionShape,
    config: AttentionConfig,
    threads: usize,
) -> u128 {
    let pairs = shape.batch as u128 * shape.kv_heads as u128;
    let d = shape.head_dim as u128;
    let parts = Parts::new(shape, config.hiding_window(shape));
    let keys: u128 = (0..parts.count())
        .map(|part| parts.keys(part).len() as u128)
        .sum();
    let (dq, dkv) = (shape.rows() as u128 * d, 2 * keys * d);
    let gradients = pairs * (dq + dkv) * size_of::<f32>() as u128;
    gradients + threads as u128 * Scratch::<E::Operand>::bytes(shape, config)
}

/// The inputs of all tasks.
struct Pass<'a, E: Element> {
    isa: Isa,
    operands: &'a Operands<'a, E>,
    results: &'a Results<'a, E>,
    first_keys: FirstKeys,
    shape: AttentionShape,
    parts: Parts<'a>,
}

/// The gradients of one (batch, key-value head) pair from a part of its queries.
struct Part {
    /// `[queries, group, d]`, 0 in other parts' tiles. (Memory that nobody writes to takes no room.)
    dq: Rows,
    /// `[keys, d]`.
    dk: Rows,
    /// `[keys, d]`.
    dv: Rows,
}

/// Sums for the positions from `first` on, `width` wide.
struct Rows {
    first: usize,
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    fn zeros(positions: Range<usize>, width: usize) -> Self {
        Self {
            first: positions.start,
            width,
            values: vec![0.0; positions.len() * width],
        }
    }

    fn at(&self, position: usize) -> &[f32] {
        &self.values[(position - self.first) * self.width..][..self.width]
    }

    fn at_mut(&mut self, positions: &Range<usize>) -> &mut [f32] {
        let first = (positions.start - self.first) * self.width;
        &mut self.values[first..][..positions.len() * self.width]
    }
}

/// A thread's memory for any tile.
struct Scratch<O> {
    q: Vec<O>,
    grad: Vec<O>,
    out: Vec<O>,
    p: Vec<f32>,
    dp: Vec<f32>,
    /// Empty without a softcap.
    slopes: Vec<f32>,
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

    fn new(shape: &AttentionShape, config: AttentionConfig) -> Self {
        let [rows, keys] = Self::tile(shape);
        let scores = || vec![0.0; rows * keys];
        let operand = || vec![O::default(); rows * shape.head_dim];
        Self {
            q: operand(),
            grad: operand(),
            out: operand(),
            p: scores(),
            dp: scores(),
            slopes: config.softcap.map_or_else(Vec::new, |_| scores()),
            lse: vec![0.0; rows],
            deltas: vec![0.0; rows],
            halves: Default::default(),
        }
    }

    fn bytes(shape: &AttentionShape, config: AttentionConfig) -> u128 {
        let [rows, keys] = Self::tile(shape).map(|n| n as u128);
        let d = shape.head_dim as u128;
        // `halves` are in use where operands are not f32.
        let halves = if O::IN_PAIRS { 2 * rows * d } else { 0 };
        let slopes = config.softcap.map_or(0, |_| rows * keys);
        3 * rows * d * size_of::<O>() as u128
            + (2 * rows * (keys + 1) + slopes + halves) * size_of::<f32>() as u128
    }
}

impl<E: Element> Pass<'_, E> {
    fn part(&self, pair: usize, part: usize, scratch: &mut Scratch<E::Operand>) -> Part {
        let (isa, shape) = (self.isa, &self.shape);
        let Operands { k, v, config, .. } = *self.operands;
        let scale = config.scale as f32;
        let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
        let (group, d) = (shape.group, shape.head_dim);
        let keys = self.parts.keys(part);
        let mut gradients = Part {
            dq: Rows::zeros(self.parts.queries(part), group * d),
            dk: Rows::zeros(keys.clone(), d),
            dv: Rows::zeros(keys, d),
        };
        for queries in self.parts.tiles(part) {
            let rows = queries.len() * group;
            let first_keys = self.first_keys.of(batch, queries.clone());
            self.load(batch, queries.clone(), kv_head, scratch);
            let (q, grad) = (&scratch.q[..rows * d], &scratch.grad[..rows * d]);
            let [q_rows, grad_rows] = [q, grad].map(|values| DenseRef::new(values, [rows, d]));
            let dq = gradients.dq.at_mut(&queries);

            for keys in key_tiles(shape, queries.end - 1, first_keys) {
                let width = keys.len();
                let k = k.positions(batch, keys.clone(), kv_head);
                let v = v.positions(batch, keys.clone(), kv_head);
                let (dk, dv) = (gradients.dk.at_mut(&keys), gradients.dv.at_mut(&keys));
                let (forward, one) = (Direction::Forward, Cpu::new(isa, Threads::Calling));

                let p = &mut scratch.p[..rows * width];
                one.dense_matmul(k, q, rows, p, forward, Beta::Zero);
                let mask = TileMask::new(shape, queries.start, &keys, first_keys);
                let (lse, slopes) = (&scratch.lse[..rows], &mut *scratch.slopes);
                probabilities(isa, mask, config, p, lse, slopes);
                one.dense_transposed_matmul(grad_rows, p, width, dv, Beta::One);

                let ds = &mut scratch.dp[..rows * width];
                one.dense_matmul(v, grad, rows, ds, forward, Beta::Zero);
                score_gradients(isa, p, width, &scratch.deltas[..rows], ds);
                if config.softcap.is_some() {
                    multiply(isa, ds, slopes);
                }
                let transposed = Direction::Transposed;
                one.dense_matmul(k, ds, rows, dq, transposed, Beta::One);
                one.dense_transposed_matmul(q_rows, ds, width, dk, Beta::One);
            }
            dq.iter_mut().for_each(|value| *value *= scale);
        }
        let dk = gradients.dk.values.iter_mut();
        dk.for_each(|value| *value *= scale);
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
    /// Parts of a pair.
    count: usize,
    shape: AttentionShape,
}

impl Tasks<'_> {
    /// Lays the values `[len, width]` of each pair out as `[batch, len, kv_heads, width]`. At a position they are the sum
    /// of those of the parts that `parts_at` names, 0 where it names none.
    fn interleave<E: Element>(
        &self,
        values: impl Fn(&Part) -> &Rows + Sync,
        parts_at: impl Fn(usize) -> Range<usize> + Sync,
        len: usize,
        width: usize,
    ) -> Vec<E> {
        let row = self.shape.kv_heads * width;
        let total = self.shape.batch * len * row;
        let pairs = self.gradients.chunks(self.count);
        let pairs: Vec<_> = pairs.collect();
        // SAFETY: the rows make up the whole; of each every element is written, by each pair's first part its share, or
        // 0 where there is none.
        unsafe {
            written(total, |all| {
                let rows = all.par_chunks_mut(row.max(1)).enumerate();
                rows.with_min_len(64)
                    .for_each_init(Vec::new, |half, (i, to)| {
                        let (batch, position) = (i / len, i % len);
                        let pairs = &pairs[batch * self.shape.kv_heads..];
                        let parts = parts_at(position);
                        E::write(self.isa, to, half, |to| {
                            if parts.is_empty() {
                                to.iter_mut().for_each(|to| _ = to.write(0.0));
                                return;
                            }
                            for (pair, to) in pairs.iter().zip(to.chunks_exact_mut(width)) {
                                let from = |part: usize| values(&pair[part]).at(position);
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
