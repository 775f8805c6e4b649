use burn_core::{
    backend::TensorMetadata,
    tensor::{DType, Shape, bf16, f16},
};
use burn_flex::FlexTensor;
use core::{mem::MaybeUninit, ops::Range};
use nf4::Direction;
use qlora_cpu::{Cpu, dense::Beta};
use rayon::prelude::*;

use super::{
    super::{
        buffer::{create, written},
        number::{Number, with_number},
    },
    operand::{Operand, View},
    tile::{KEYS, Sight, Starts, divide_rows, key_tiles, positions, softmax_step},
};
use crate::attention_shape::AttentionShape;

/// The output in q's dtype, and the log-sum-exp of every row.
pub(in super::super) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    starts: Option<FlexTensor>,
    scale: f64,
) -> (FlexTensor, FlexTensor) {
    with_number!(q.dtype(), E => forward_as::<E>(q, k, v, starts, scale))
}

fn forward_as<E: Number>(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    starts: Option<FlexTensor>,
    scale: f64,
) -> (FlexTensor, FlexTensor) {
    let shape = AttentionShape::new(&q.shape(), &k.shape());
    let q = Operand::new::<E>(q);
    let [k, v] = [k, v].map(Operand::new::<E::Operand>);
    let operands = Operands::<E> {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        starts: Starts::new(starts, &shape),
        scale: scale as f32,
        shape,
    };
    let heads = shape.heads();
    let mut lse = vec![0f32; shape.batch * shape.q_len * heads];
    let rows = positions(&shape).min(shape.q_len) * shape.group;
    let scratch = || Scratch::<E::Operand>::new(rows, shape.kv_len.min(KEYS), shape.head_dim);
    // SAFETY: the tasks make up the whole, and each writes every element of its part.
    let out = unsafe {
        written(lse.len() * shape.head_dim, |out| {
            let tasks = split(&shape, out, &mut lse);
            if tasks.len() < 2 {
                let mut scratch = scratch();
                tasks
                    .into_iter()
                    .for_each(|task| task.run(&operands, &mut scratch));
            } else {
                tasks
                    .into_par_iter()
                    .for_each_init(scratch, |scratch, task| task.run(&operands, scratch));
            }
        })
    };
    let out_shape = Shape::new([shape.batch, shape.q_len, heads, shape.head_dim]);
    let lse_shape = Shape::new([shape.batch, shape.q_len, heads]);
    (create(out_shape, out), create(lse_shape, lse))
}

struct Operands<'a, E: Number> {
    q: View<'a, E>,
    k: View<'a, E::Operand>,
    v: View<'a, E::Operand>,
    starts: Starts,
    scale: f32,
    shape: AttentionShape,
}

/// A tile of query positions and the key-value heads to attend with: one run of the output.
struct Task<'a, E> {
    batch: usize,
    positions: Range<usize>,
    kv_heads: Range<usize>,
    /// `[positions, kv_heads · group, d]`.
    out: &'a mut [MaybeUninit<E>],
    /// `[positions, kv_heads · group]`.
    lse: &'a mut [f32],
}

/// The output in tiles of positions; with a single position, as in generation, in heads.
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
        let (step, kv_step) = match shape.q_len {
            1 => (shape.group, 1),
            _ => (tile * heads, shape.kv_heads),
        };
        let runs = out
            .chunks_mut(step * shape.head_dim.max(1))
            .zip(lse.chunks_mut(step));
        for (i, (out, lse)) in runs.enumerate() {
            let (positions, kv_heads) = match shape.q_len {
                1 => (0..1, i..i + kv_step),
                q_len => (i * tile..((i + 1) * tile).min(q_len), 0..kv_step),
            };
            tasks.push(Task {
                batch,
                positions,
                kv_heads,
                out,
                lse,
            });
        }
    }
    tasks
}

/// What a thread needs for a tile, whichever it is.
struct Scratch<O> {
    q: Vec<O>,
    scores: Vec<f32>,
    out: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
    half: Vec<f32>,
}

impl<O: Number> Scratch<O> {
    fn new(rows: usize, keys: usize, d: usize) -> Self {
        Self {
            q: vec![O::default(); rows * d],
            scores: vec![0.0; rows * keys],
            out: vec![0.0; rows * d],
            maxima: vec![0.0; rows],
            sums: vec![0.0; rows],
            half: Vec::new(),
        }
    }
}

impl<E: Number> Task<'_, E> {
    fn run(self, operands: &Operands<E>, scratch: &mut Scratch<E::Operand>) {
        let shape = &operands.shape;
        let (group, d) = (shape.group, shape.head_dim);
        let rows = self.positions.len() * group;
        let heads = self.kv_heads.len() * group;
        let starts = operands.starts.of(self.batch, self.positions.clone());
        let (scores, half) = (&mut scratch.scores, &mut scratch.half);
        let (q, out) = (&mut scratch.q[..rows * d], &mut scratch.out[..rows * d]);
        let (maxima, sums) = (&mut scratch.maxima[..rows], &mut scratch.sums[..rows]);

        for kv_head in self.kv_heads.clone() {
            let group_heads = kv_head * group..(kv_head + 1) * group;
            operands
                .q
                .gather(self.batch, self.positions.clone(), group_heads, q);
            maxima.fill(f32::NEG_INFINITY);
            sums.fill(0.0);

            let mut beta = Beta::Zero;
            for keys in key_tiles(shape, self.positions.end - 1, starts) {
                let scores = &mut scores[..rows * keys.len()];
                let k = operands.k.positions(self.batch, keys.clone(), kv_head);
                let one = Cpu::calling_thread();
                one.dense_matmul(k, q, rows, scores, Direction::Forward, Beta::Zero);
                let sight = Sight::new(shape, self.positions.start, &keys, starts);
                softmax_step(sight, operands.scale, scores, maxima, sums, out, d);
                let v = operands.v.positions(self.batch, keys, kv_head);
                one.dense_matmul(v, scores, rows, out, Direction::Transposed, beta);
                beta = Beta::One;
            }

            let first = (kv_head - self.kv_heads.start) * group;
            let positions = out.chunks_exact(group * d).zip(sums.chunks_exact(group));
            for (position, (from, sums)) in positions.enumerate() {
                let to = (position * heads + first) * d;
                E::write(&mut self.out[to..][..group * d], half, |to| {
                    divide_rows(from, sums, d, to);
                });
            }
            for (row, (max, sum)) in maxima.iter().zip(&*sums).enumerate() {
                self.lse[row / group * heads + first + row % group] = max + sum.ln();
            }
        }
    }
}
