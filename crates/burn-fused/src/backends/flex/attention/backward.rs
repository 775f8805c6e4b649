use burn_core::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_flex::FlexTensor;
use core::ops::Range;
use rayon::prelude::*;

use super::{
    super::{
        buffer::{Values, cast, create},
        matmul::{Into, Matrix, matmul},
    },
    operand::{Operand, View},
    tile::{KEYS, Sight, key_tiles, positions, probabilities, row_dots, score_gradients},
};
use crate::attention_shape::AttentionShape;

/// The gradients of `q`, `k` and `v`.
///
/// A (batch, key-value head) pair is one task, so that the sums over queries and over the heads of
/// a group are made in one order by one thread.
pub(in super::super) fn backward(
    [q, k, v, out, lse, grad]: [FlexTensor; 6],
    scale: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let dtypes = [q.dtype(), k.dtype(), v.dtype()];
    let shape = AttentionShape::new(&q.shape(), &k.shape());
    let [q, k, v, out, grad] = [q, k, v, out, grad].map(Operand::new);
    let lse = Values::new(lse);
    let operands = Operands {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        out: out.view(),
        grad: grad.view(),
        lse: &lse,
        scale: scale as f32,
        shape,
    };
    let pairs: Vec<_> = (0..shape.batch * shape.kv_heads)
        .into_par_iter()
        .map_init(
            || Scratch::new(&shape),
            |scratch, pair| {
                let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
                operands.pair(batch, kv_head, scratch)
            },
        )
        .collect();

    let heads = shape.heads();
    let d = shape.head_dim;
    let dq = interleave(
        &pairs,
        |pair| &pair.dq,
        &shape,
        shape.q_len,
        shape.group * d,
    );
    let dk = interleave(&pairs, |pair| &pair.dk, &shape, shape.kv_len, d);
    let dv = interleave(&pairs, |pair| &pair.dv, &shape, shape.kv_len, d);
    let finish = |values, len, heads, dtype: DType| {
        cast(
            create(Shape::new([shape.batch, len, heads, d]), values),
            dtype,
        )
    };
    (
        finish(dq, shape.q_len, heads, dtypes[0]),
        finish(dk, shape.kv_len, shape.kv_heads, dtypes[1]),
        finish(dv, shape.kv_len, shape.kv_heads, dtypes[2]),
    )
}

struct Operands<'a> {
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    out: View<'a>,
    grad: View<'a>,
    /// `[batch, q_len, heads]`.
    lse: &'a [f32],
    scale: f32,
    shape: AttentionShape,
}

/// The gradients of one (batch, key-value head) pair.
struct Pair {
    /// `[q_len, group, d]`.
    dq: Vec<f32>,
    /// `[kv_len, d]`.
    dk: Vec<f32>,
    /// `[kv_len, d]`.
    dv: Vec<f32>,
}

/// What a thread needs for a tile, whichever it is.
struct Scratch {
    q: Vec<f32>,
    grad: Vec<f32>,
    out: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
    lse: Vec<f32>,
    deltas: Vec<f32>,
}

impl Scratch {
    fn new(shape: &AttentionShape) -> Self {
        let rows = positions(shape).min(shape.q_len) * shape.group;
        let keys = KEYS.min(shape.kv_len);
        Self {
            q: vec![0.0; rows * shape.head_dim],
            grad: vec![0.0; rows * shape.head_dim],
            out: vec![0.0; rows * shape.head_dim],
            p: vec![0.0; rows * keys],
            dp: vec![0.0; rows * keys],
            lse: vec![0.0; rows],
            deltas: vec![0.0; rows],
        }
    }
}

impl Operands<'_> {
    fn pair(&self, batch: usize, kv_head: usize, scratch: &mut Scratch) -> Pair {
        let shape = &self.shape;
        let (group, d) = (shape.group, shape.head_dim);
        let mut pair = Pair {
            dq: vec![0.0; shape.rows() * d],
            dk: vec![0.0; shape.kv_len * d],
            dv: vec![0.0; shape.kv_len * d],
        };
        let step = positions(shape);
        for start in (0..shape.q_len).step_by(step) {
            let queries = start..(start + step).min(shape.q_len);
            let rows = queries.len() * group;
            self.load(batch, queries.clone(), kv_head, scratch);
            let q = Matrix::new(&scratch.q, rows, d, d);
            let grad = Matrix::new(&scratch.grad, rows, d, d);
            let dq = &mut pair.dq[start * group * d..][..rows * d];

            for keys in key_tiles(shape, queries.end - 1) {
                let width = keys.len();
                let k = self.k.positions(batch, keys.clone(), kv_head);
                let v = self.v.positions(batch, keys.clone(), kv_head);
                let range = keys.start * d..keys.end * d;

                let p = &mut scratch.p[..rows * width];
                matmul(p, q, k.t(), Into::Replace);
                let sight = Sight::new(shape, start, &keys);
                probabilities(sight, p, &scratch.lse[..rows]);
                let p_matrix = Matrix::new(p, rows, width, width);
                matmul(&mut pair.dv[range.clone()], p_matrix.t(), grad, Into::Add);

                let ds = &mut scratch.dp[..rows * width];
                matmul(ds, grad, v.t(), Into::Replace);
                score_gradients(p, width, &scratch.deltas[..rows], ds);
                let ds = Matrix::new(ds, rows, width, width);
                matmul(dq, ds, k, Into::Add);
                // `q` is scaled already.
                matmul(&mut pair.dk[range], ds.t(), q, Into::Add);
            }
            for value in dq {
                *value *= self.scale;
            }
        }
        pair
    }

    /// Copies a tile's rows: queries (scaled), output gradients, log-sum-exps and
    /// `rowsum(grad ∘ out)`.
    fn load(&self, batch: usize, queries: Range<usize>, kv_head: usize, scratch: &mut Scratch) {
        let shape = &self.shape;
        let rows = queries.len() * shape.group;
        let heads = kv_head * shape.group..(kv_head + 1) * shape.group;
        let copy = |view: &View, scale, to: &mut [f32]| {
            view.gather(batch, queries.clone(), heads.clone(), scale, to);
        };
        copy(&self.q, self.scale, &mut scratch.q);
        copy(&self.grad, 1.0, &mut scratch.grad);
        copy(&self.out, 1.0, &mut scratch.out);
        let dots = &mut scratch.deltas[..rows];
        row_dots(&scratch.grad, &scratch.out, shape.head_dim, dots);
        let lse = scratch.lse.chunks_exact_mut(shape.group);
        for (position, lse) in queries.clone().zip(lse) {
            let first = (batch * shape.q_len + position) * shape.heads() + heads.start;
            lse.copy_from_slice(&self.lse[first..][..shape.group]);
        }
    }
}

/// The pairs' values `[len, width]` as `[batch, len, kv_heads, width]`.
fn interleave(
    pairs: &[Pair],
    values: impl Fn(&Pair) -> &Vec<f32> + Sync,
    shape: &AttentionShape,
    len: usize,
    width: usize,
) -> Vec<f32> {
    let mut all = Vec::with_capacity(pairs.len() * len * width);
    for pairs in pairs.chunks(shape.kv_heads.max(1)) {
        for position in 0..len {
            for pair in pairs {
                all.extend_from_slice(&values(pair)[position * width..][..width]);
            }
        }
    }
    all
}
