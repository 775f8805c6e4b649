use burn_core::{
    backend::TensorMetadata,
    tensor::{DType, Shape, bf16, f16},
};
use burn_flex::FlexTensor;
use core::ops::Range;
use nf4::Direction;
use qlora_cpu::{
    Cpu,
    dense::{Beta, DenseRef},
};
use rayon::prelude::*;

use super::{
    super::{
        buffer::{Values, cast, create, written},
        number::{Number, with_number},
    },
    operand::{Operand, View},
    tile::{KEYS, Sight, Starts, key_tiles, positions, probabilities, row_dots, score_gradients},
};
use crate::attention_shape::AttentionShape;

/// Tasks that are enough to keep many threads equally busy.
const TASKS: usize = 12;

/// The gradients of `q`, `k` and `v`.
///
/// A (batch, key-value head) pair is one task, or one of a few where there are few pairs, so that the
/// sums over queries and over the heads of a group are made in one order.
pub(in super::super) fn backward(
    [q, k, v, out, lse, grad]: [FlexTensor; 6],
    starts: Option<FlexTensor>,
    scale: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let [k_dtype, v_dtype] = [k.dtype(), v.dtype()];
    let (dq, dk, dv) = with_number!(q.dtype(), E => {
        backward_as::<E>([q, k, v, out, lse, grad], starts, scale)
    });
    (dq, cast(dk, k_dtype), cast(dv, v_dtype))
}

fn backward_as<E: Number>(
    [q, k, v, out, lse, grad]: [FlexTensor; 6],
    starts: Option<FlexTensor>,
    scale: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let shape = AttentionShape::new(&q.shape(), &k.shape());
    let [q, out, grad] = [q, out, grad].map(Operand::new::<E>);
    let [k, v] = [k, v].map(Operand::new::<E::Operand>);
    let lse = Values::new(lse);
    let operands = Operands::<E> {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        out: out.view(),
        grad: grad.view(),
        lse: &lse,
        starts: Starts::new(starts, &shape),
        scale: scale as f32,
        shape,
    };
    let pairs = shape.batch * shape.kv_heads;
    let parts = TASKS
        .div_ceil(pairs.max(1))
        .min(shape.q_len.div_ceil(positions(&shape)).max(1));
    let gradients: Vec<_> = (0..pairs * parts)
        .into_par_iter()
        .map_init(
            || Scratch::new(&shape),
            |scratch, task| operands.part(task / parts, task % parts, parts, scratch),
        )
        .collect();

    let heads = shape.heads();
    let (d, kv_heads) = (shape.head_dim, shape.kv_heads);
    let tile = positions(&shape);
    let tensor =
        |values: Vec<E>, len, heads| create(Shape::new([shape.batch, len, heads, d]), values);
    // A position's dq is in the part that has its tile; every part has something of dk and dv.
    let part_of = |position: usize| position / tile % parts..position / tile % parts + 1;
    let all = |_| 0..parts;
    let tasks = Tasks {
        gradients: &gradients,
        parts,
        shape,
    };
    let dq = tasks.interleave::<E>(|part| &part.dq, part_of, shape.q_len, shape.group * d);
    let dk = tasks.interleave::<E>(|part| &part.dk, all, shape.kv_len, d);
    let dv = tasks.interleave::<E>(|part| &part.dv, all, shape.kv_len, d);
    (
        tensor(dq, shape.q_len, heads),
        tensor(dk, shape.kv_len, kv_heads),
        tensor(dv, shape.kv_len, kv_heads),
    )
}

struct Operands<'a, E: Number> {
    q: View<'a, E>,
    k: View<'a, E::Operand>,
    v: View<'a, E::Operand>,
    out: View<'a, E>,
    grad: View<'a, E>,
    /// `[batch, q_len, heads]`.
    lse: &'a [f32],
    starts: Starts,
    scale: f32,
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

/// What a thread needs for a tile, whichever it is.
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

impl<O: Number> Scratch<O> {
    fn new(shape: &AttentionShape) -> Self {
        let rows = positions(shape).min(shape.q_len) * shape.group;
        let keys = KEYS.min(shape.kv_len);
        Self {
            q: vec![O::default(); rows * shape.head_dim],
            grad: vec![O::default(); rows * shape.head_dim],
            out: vec![O::default(); rows * shape.head_dim],
            p: vec![0.0; rows * keys],
            dp: vec![0.0; rows * keys],
            lse: vec![0.0; rows],
            deltas: vec![0.0; rows],
            halves: Default::default(),
        }
    }
}

impl<E: Number> Operands<'_, E> {
    fn part(
        &self,
        pair: usize,
        part: usize,
        parts: usize,
        scratch: &mut Scratch<E::Operand>,
    ) -> Part {
        let shape = &self.shape;
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
            let starts = self.starts.of(batch, queries.clone());
            self.load(batch, queries.clone(), kv_head, scratch);
            let (q, grad) = (&scratch.q[..rows * d], &scratch.grad[..rows * d]);
            let [q_rows, grad_rows] = [q, grad].map(|values| DenseRef::new(values, [rows, d]));
            let dq = &mut gradients.dq[start * group * d..][..rows * d];

            for keys in key_tiles(shape, queries.end - 1, starts) {
                let width = keys.len();
                let k = self.k.positions(batch, keys.clone(), kv_head);
                let v = self.v.positions(batch, keys.clone(), kv_head);
                let range = keys.start * d..keys.end * d;
                let (dk, dv) = (&mut gradients.dk, &mut gradients.dv[range.clone()]);
                let (forward, one) = (Direction::Forward, Cpu::calling_thread());

                let p = &mut scratch.p[..rows * width];
                one.dense_matmul(k, q, rows, p, forward, Beta::Zero);
                let sight = Sight::new(shape, start, &keys, starts);
                probabilities(sight, self.scale, p, &scratch.lse[..rows]);
                one.dense_transposed_matmul(grad_rows, p, width, dv, Beta::One);

                let ds = &mut scratch.dp[..rows * width];
                one.dense_matmul(v, grad, rows, ds, forward, Beta::Zero);
                score_gradients(p, width, &scratch.deltas[..rows], ds);
                one.dense_matmul(k, ds, rows, dq, Direction::Transposed, Beta::One);
                one.dense_transposed_matmul(q_rows, ds, width, &mut dk[range], Beta::One);
            }
            dq.iter_mut().for_each(|value| *value *= self.scale);
        }
        gradients
            .dk
            .iter_mut()
            .for_each(|value| *value *= self.scale);
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
            (&self.q, &mut scratch.q),
            (&self.grad, &mut scratch.grad),
            (&self.out, &mut scratch.out),
        ] {
            view.gather(batch, queries.clone(), heads.clone(), to);
        }
        let values = rows * shape.head_dim;
        let [grad, out] = &mut scratch.halves;
        let grad = E::Operand::read(&scratch.grad[..values], grad);
        let out = E::Operand::read(&scratch.out[..values], out);
        row_dots(grad, out, shape.head_dim, &mut scratch.deltas[..rows]);
        let lse = scratch.lse.chunks_exact_mut(shape.group);
        for (position, lse) in queries.clone().zip(lse) {
            let first = (batch * shape.q_len + position) * shape.heads() + heads.start;
            lse.copy_from_slice(&self.lse[first..][..shape.group]);
        }
    }
}

/// The gradients of all tasks: the parts of the first pair, those of the second, ...
struct Tasks<'a> {
    gradients: &'a [Part],
    parts: usize,
    shape: AttentionShape,
}

impl Tasks<'_> {
    /// Values `[len, width]` of each pair as `[batch, len, kv_heads, width]`. At a position they are the sum
    /// of those of the parts that `parts_at` names.
    fn interleave<E: Number>(
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
                        E::write(to, half, |to| {
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
