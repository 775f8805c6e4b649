//! Attention over slabs of (batch, key-value head) pairs, so that only a slab's scores exist at a
//! time and none are kept for the backward pass.

use burn_core::backend::{
    Backend, Slice, TensorMetadata, get_or_init_device_settings,
    tensor::{BoolTensor, FloatTensor},
};
use burn_core::tensor::Shape;

use super::precision::{cast, widen};
use crate::attention_shape::AttentionShape;

/// Scores formed at a time, at least one pair's: 64 MiB in f32.
const SLAB_SCORES: usize = 1 << 24;

/// What a hidden score is set to: finite, because not every shader language promises infinities,
/// and far enough down for its exponential to be zero.
const HIDDEN: f64 = -1e30;

pub(crate) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let shape = AttentionShape::new(&q.shape(), &k.shape());
    let slabs = Slabs::<B>::new(shape, &q);
    let q = fold_queries::<B>(q, shape, scale);
    let k = fold_keys::<B>(k, shape);
    let v = fold_keys::<B>(v, shape);

    let (outs, lses) = slabs
        .ranges()
        .map(|range| {
            let scores = slabs.scores(&q, &k, range.clone());
            let max = B::float_max_dim(scores.clone(), 2);
            let exp = B::float_exp(B::float_sub(scores, max.clone()));
            let sum = B::float_sum_dim(exp.clone(), 2);
            let out = B::float_matmul(exp, slabs.of(&v, range));
            let out = B::float_div(out, sum.clone());
            (out, B::float_add(B::float_log(sum), max))
        })
        .unzip();
    let out = unfold_queries::<B>(join::<B>(outs), shape, shape.head_dim);
    let lse = unfold_queries::<B>(join::<B>(lses), shape, 1);
    let lse_shape = Shape::new([shape.batch, shape.q_len, shape.heads()]);
    (cast::<B>(out, dtype), B::float_reshape(lse, lse_shape))
}

/// With `p = exp(s − lse)`: `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − rowsum(g ∘ out))`, `dq = ds·k`,
/// `dk = dsᵀ·q`.
pub(crate) fn backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (q_dtype, k_dtype, v_dtype) = (q.dtype(), k.dtype(), v.dtype());
    let shape = AttentionShape::new(&q.shape(), &k.shape());
    let slabs = Slabs::<B>::new(shape, &q);
    let q = fold_queries::<B>(q, shape, scale);
    let k = fold_keys::<B>(k, shape);
    let v = fold_keys::<B>(v, shape);
    let out = fold_queries::<B>(out, shape, 1.0);
    let grad = fold_queries::<B>(grad, shape, 1.0);
    let lse_shape = Shape::new([shape.batch, shape.q_len, shape.heads(), 1]);
    let lse = fold_queries::<B>(B::float_reshape(lse, lse_shape), shape, 1.0);
    let delta = B::float_sum_dim(B::float_mul(out, grad.clone()), 2);

    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    for range in slabs.ranges() {
        let grad = slabs.of(&grad, range.clone());
        let scores = slabs.scores(&q, &k, range.clone());
        let p = B::float_exp(B::float_sub(scores, slabs.of(&lse, range.clone())));
        dvs.push(B::float_matmul(
            B::float_swap_dims(p.clone(), 1, 2),
            grad.clone(),
        ));
        let v = B::float_swap_dims(slabs.of(&v, range.clone()), 1, 2);
        let dp = B::float_sub(B::float_matmul(grad, v), slabs.of(&delta, range.clone()));
        let ds = B::float_mul(p, dp);
        // `q` is scaled already, `k` is not.
        dks.push(B::float_matmul(
            B::float_swap_dims(ds.clone(), 1, 2),
            slabs.of(&q, range.clone()),
        ));
        let dq = B::float_matmul(ds, slabs.of(&k, range));
        dqs.push(B::float_mul_scalar(dq, scale.into()));
    }
    let dq = unfold_queries::<B>(join::<B>(dqs), shape, shape.head_dim);
    let dk = unfold_keys::<B>(join::<B>(dks), shape);
    let dv = unfold_keys::<B>(join::<B>(dvs), shape);
    (
        cast::<B>(dq, q_dtype),
        cast::<B>(dk, k_dtype),
        cast::<B>(dv, v_dtype),
    )
}

/// The (batch, key-value head) pairs in runs, and the mask all of them share.
struct Slabs<B: Backend> {
    pairs: usize,
    per_slab: usize,
    mask: Option<BoolTensor<B>>,
}

impl<B: Backend> Slabs<B> {
    fn new(shape: AttentionShape, q: &FloatTensor<B>) -> Self {
        let pairs = shape.batch * shape.kv_heads;
        let scores = (shape.rows() * shape.kv_len).max(1);
        Self {
            pairs,
            per_slab: (SLAB_SCORES / scores).clamp(1, pairs.max(1)),
            // A single query sees every key.
            mask: (shape.q_len > 1).then(|| hidden_keys::<B>(shape, q)),
        }
    }

    fn ranges(&self) -> impl Iterator<Item = core::ops::Range<usize>> {
        let (pairs, step) = (self.pairs, self.per_slab);
        (0..pairs.max(1))
            .step_by(step)
            .map(move |start| start..(start + step).min(pairs))
    }

    /// The pairs `range` of `tensor: [pairs, _, _]`.
    fn of(&self, tensor: &FloatTensor<B>, range: core::ops::Range<usize>) -> FloatTensor<B> {
        if range.len() == self.pairs {
            return tensor.clone();
        }
        let [_, rows, columns] = tensor.shape().dims();
        let slices = [
            Slice::from(range),
            Slice::from(0..rows),
            Slice::from(0..columns),
        ];
        B::float_slice(tensor.clone(), &slices)
    }

    /// The scores `[pairs of range, rows, kv_len]`, hidden ones set to [`HIDDEN`].
    fn scores(
        &self,
        q: &FloatTensor<B>,
        k: &FloatTensor<B>,
        range: core::ops::Range<usize>,
    ) -> FloatTensor<B> {
        let k = B::float_swap_dims(self.of(k, range.clone()), 1, 2);
        let scores = B::float_matmul(self.of(q, range), k);
        match &self.mask {
            Some(mask) => {
                let mask = B::bool_expand(mask.clone(), scores.shape());
                B::float_mask_fill(scores, mask, HIDDEN.into())
            }
            None => scores,
        }
    }
}

/// True where a key comes after the row's query: `[1, rows, kv_len]`.
fn hidden_keys<B: Backend>(shape: AttentionShape, q: &FloatTensor<B>) -> BoolTensor<B> {
    let AttentionShape {
        q_len,
        kv_len,
        group,
        ..
    } = shape;
    let device = q.device();
    let settings = get_or_init_device_settings::<B>(&device);
    let (first, last) = (shape.visible(0) - 1, shape.visible(q_len - 1));
    let queries = B::int_arange(first as i64..last as i64, &device, settings.int_dtype);
    let keys = B::int_arange(0..kv_len as i64, &device, settings.int_dtype);
    let queries = B::int_expand(
        B::int_reshape(queries, Shape::new([q_len, 1])),
        Shape::new([q_len, kv_len]),
    );
    let keys = B::int_expand(
        B::int_reshape(keys, Shape::new([1, kv_len])),
        Shape::new([q_len, kv_len]),
    );
    let mask = B::int_greater(keys, queries, settings.bool_dtype);
    let mask = B::bool_reshape(mask, Shape::new([q_len, 1, kv_len]));
    let mask = B::bool_expand(mask, Shape::new([q_len, group, kv_len]));
    B::bool_reshape(mask, Shape::new([1, shape.rows(), kv_len]))
}

/// `[batch, q_len, heads, n]` as `[batch · kv_heads, q_len · group, n]`, times `scale`.
fn fold_queries<B: Backend>(x: FloatTensor<B>, s: AttentionShape, scale: f64) -> FloatTensor<B> {
    let n = x.shape()[3];
    let x = widen::<B>(x);
    let x = B::float_reshape(x, Shape::new([s.batch, s.q_len, s.kv_heads, s.group, n]));
    let x = B::float_permute(x, &[0, 2, 1, 3, 4]);
    let x = B::float_reshape(x, Shape::new([s.batch * s.kv_heads, s.rows(), n]));
    if scale == 1.0 {
        x
    } else {
        B::float_mul_scalar(x, scale.into())
    }
}

/// The reverse of [`fold_queries`], without the scale.
fn unfold_queries<B: Backend>(x: FloatTensor<B>, s: AttentionShape, n: usize) -> FloatTensor<B> {
    let x = B::float_reshape(x, Shape::new([s.batch, s.kv_heads, s.q_len, s.group, n]));
    let x = B::float_permute(x, &[0, 2, 1, 3, 4]);
    B::float_reshape(x, Shape::new([s.batch, s.q_len, s.heads(), n]))
}

/// `[batch, kv_len, kv_heads, d]` as `[batch · kv_heads, kv_len, d]`.
fn fold_keys<B: Backend>(x: FloatTensor<B>, s: AttentionShape) -> FloatTensor<B> {
    let x = B::float_permute(widen::<B>(x), &[0, 2, 1, 3]);
    B::float_reshape(x, Shape::new([s.batch * s.kv_heads, s.kv_len, s.head_dim]))
}

/// The reverse of [`fold_keys`].
fn unfold_keys<B: Backend>(x: FloatTensor<B>, s: AttentionShape) -> FloatTensor<B> {
    let x = B::float_reshape(x, Shape::new([s.batch, s.kv_heads, s.kv_len, s.head_dim]));
    B::float_permute(x, &[0, 2, 1, 3])
}

fn join<B: Backend>(mut parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        B::float_cat(parts, 0)
    }
}
