//! Attention over slabs of (batch, key-value head) pairs, so that only a slab's scores exist at a
//! time and none are kept for the backward pass.

use burn_core::backend::{
    Backend, Slice, TensorMetadata, get_or_init_device_settings,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
use burn_core::tensor::{BoolDType, Shape, TensorData};

use nf4::attention::AttentionShape;

use super::precision::{cast, widen};
use crate::config::AttentionConfig;
use crate::operands::AttentionMask;

/// Scores formed at a time, at least one pair's: 64 MiB in f32.
const SLAB_SCORES: usize = 1 << 24;

/// The value of a hidden score: finite, because not every shader language promises infinities,
/// and far enough down for its exponential to be zero.
const HIDDEN: f64 = -1e30;

pub(crate) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    mask: AttentionMask<B>,
    config: AttentionConfig,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let shape = AttentionShape::new(q.shape().dims(), k.shape().dims());
    let slabs = Slabs::<B>::new(shape, &q, mask.starts(), config);
    let q = fold_queries::<B>(q, shape, config.scale);
    let k = fold_keys::<B>(k, shape);
    let v = fold_keys::<B>(v, shape);

    let (outs, lses) = slabs
        .ranges()
        .map(|range| {
            let scores = slabs.bounded(&q, &k, range.clone());
            let scores = slabs.hide(scores, &q, range.clone());
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

/// Computes, with `p = exp(s − lse)`, `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − rowsum(g ∘ out))`, `dq = ds·k`,
/// `dk = dsᵀ·q`; a softcap `c` puts its derivative `1 − (s/c)²` into `ds`.
pub(crate) fn backward<B: Backend>(
    [q, k, v, out, lse, grad]: [FloatTensor<B>; 6],
    mask: AttentionMask<B>,
    config: AttentionConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (q_dtype, k_dtype, v_dtype) = (q.dtype(), k.dtype(), v.dtype());
    let shape = AttentionShape::new(q.shape().dims(), k.shape().dims());
    let slabs = Slabs::<B>::new(shape, &q, mask.starts(), config);
    let q = fold_queries::<B>(q, shape, config.scale);
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
        let scores = slabs.bounded(&q, &k, range.clone());
        let slope = slabs.slope(&scores);
        let scores = slabs.hide(scores, &q, range.clone());
        let p = B::float_exp(B::float_sub(scores, slabs.of(&lse, range.clone())));
        dvs.push(B::float_matmul(
            B::float_swap_dims(p.clone(), 1, 2),
            grad.clone(),
        ));
        let v = B::float_swap_dims(slabs.of(&v, range.clone()), 1, 2);
        let dp = B::float_sub(B::float_matmul(grad, v), slabs.of(&delta, range.clone()));
        let mut ds = B::float_mul(p, dp);
        if let Some(slope) = slope {
            ds = B::float_mul(ds, slope);
        }
        // `q` is scaled already, `k` is not.
        dks.push(B::float_matmul(
            B::float_swap_dims(ds.clone(), 1, 2),
            slabs.of(&q, range.clone()),
        ));
        let dq = B::float_matmul(ds, slabs.of(&k, range));
        dqs.push(B::float_mul_scalar(dq, config.scale.into()));
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

/// Returns the bytes that [`forward`] takes beside its operands and results: `q`, `k`, `v` and the output in f32 and in another
/// order, and of a slab the scores, their mask and their exponentials.
pub(crate) fn forward_workspace_bytes(shape: &AttentionShape) -> u128 {
    let [queries, keys] = values(shape);
    (2 * queries + 2 * keys + 3 * scores_of_a_slab(shape)) * size_of::<f32>() as u128
}

/// Returns the bytes that [`backward`] takes beside its operands and results: `q`, `k`, `v`, the output and its gradient in f32 and
/// in another order, the gradients of `q`, `k` and `v` likewise, and of a slab the scores, their mask, their
/// probabilities, the gradients of both, and a softcap's derivative.
pub(crate) fn backward_workspace_bytes(shape: &AttentionShape, config: AttentionConfig) -> u128 {
    let [queries, keys] = values(shape);
    let slabs = 5 + u128::from(config.softcap.is_some());
    (4 * queries + 4 * keys + slabs * scores_of_a_slab(shape)) * size_of::<f32>() as u128
}

/// Returns the bytes of a slab's scores in f32.
pub(crate) fn slab_bytes(shape: &AttentionShape) -> u128 {
    scores_of_a_slab(shape) * size_of::<f32>() as u128
}

/// Returns the number of elements of `q`, and of `k`.
fn values(shape: &AttentionShape) -> [u128; 2] {
    let of = |len: usize, heads: usize| {
        [shape.batch, len, heads, shape.head_dim]
            .map(|n| n as u128)
            .into_iter()
            .product()
    };
    [
        of(shape.q_len, shape.heads()),
        of(shape.kv_len, shape.kv_heads),
    ]
}

/// Scores that are formed at a time.
fn scores_of_a_slab(shape: &AttentionShape) -> u128 {
    pairs_of_a_slab(*shape) as u128 * shape.rows() as u128 * shape.kv_len as u128
}

/// Returns the number of (batch, key-value head) pairs whose scores are formed at a time.
fn pairs_of_a_slab(shape: AttentionShape) -> usize {
    let scores = shape.rows().saturating_mul(shape.kv_len).max(1);
    let pairs = shape.batch * shape.kv_heads;
    (SLAB_SCORES / scores).clamp(1, pairs.max(1))
}

/// The (batch, key-value head) pairs in runs, and what their queries do not see.
struct Slabs<B: Backend> {
    shape: AttentionShape,
    pairs: usize,
    per_slab: usize,
    /// The keys after each query and before its window, which all pairs share: `[1, rows, kv_len]`.
    outside: Option<BoolTensor<B>>,
    starts: Option<IntTensor<B>>,
    softcap: Option<f64>,
}

impl<B: Backend> Slabs<B> {
    fn new(
        shape: AttentionShape,
        q: &FloatTensor<B>,
        starts: Option<IntTensor<B>>,
        config: AttentionConfig,
    ) -> Self {
        let window = config.hiding_window(&shape);
        Self {
            shape,
            pairs: shape.batch * shape.kv_heads,
            per_slab: pairs_of_a_slab(shape),
            // A single query sees every key of its window.
            outside: (shape.q_len > 1 || window.is_some()).then(|| {
                let (queries, keys, bools) = positions::<B>(shape, q);
                let mut outside = B::int_greater(keys.clone(), queries.clone(), bools);
                if let Some(window) = window {
                    let end = B::int_add_scalar(keys, (window as i64).into());
                    let before = B::int_lower_equal(end, queries, bools);
                    outside = B::bool_or(outside, before);
                }
                by_row::<B>(outside, shape)
            }),
            starts,
            softcap: config.softcap,
        }
    }

    fn ranges(&self) -> impl Iterator<Item = core::ops::Range<usize>> {
        let (pairs, step) = (self.pairs, self.per_slab);
        (0..pairs.max(1))
            .step_by(step)
            .map(move |start| start..(start + step).min(pairs))
    }

    /// Returns the pairs `range` of `tensor: [pairs, _, _]`.
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

    /// Returns the scores `[pairs of range, rows, kv_len]`, within their softcap.
    fn bounded(
        &self,
        q: &FloatTensor<B>,
        k: &FloatTensor<B>,
        range: core::ops::Range<usize>,
    ) -> FloatTensor<B> {
        let k = B::float_swap_dims(self.of(k, range.clone()), 1, 2);
        let products = B::float_matmul(self.of(q, range), k);
        match self.softcap {
            Some(cap) => {
                let tanh = B::float_tanh(B::float_div_scalar(products, cap.into()));
                B::float_mul_scalar(tanh, cap.into())
            }
            None => products,
        }
    }

    /// Returns the softcap's derivative at the [`Self::bounded`] scores, if there is one.
    fn slope(&self, bounded: &FloatTensor<B>) -> Option<FloatTensor<B>> {
        self.softcap.map(|cap| {
            let tanh = B::float_div_scalar(bounded.clone(), cap.into());
            let square = B::float_mul(tanh.clone(), tanh);
            B::float_add_scalar(B::float_neg(square), 1.0.into())
        })
    }

    /// Sets the scores of hidden keys to [`HIDDEN`].
    fn hide(
        &self,
        mut scores: FloatTensor<B>,
        q: &FloatTensor<B>,
        range: core::ops::Range<usize>,
    ) -> FloatTensor<B> {
        let earlier = self
            .starts
            .clone()
            .map(|starts| self.earlier(starts, q, range));
        for hidden in self.outside.iter().cloned().chain(earlier) {
            let hidden = B::bool_expand(hidden, scores.shape());
            scores = B::float_mask_fill(scores, hidden, HIDDEN.into());
        }
        scores
    }

    /// Returns true where a key stands before its query's first and is not its own:
    /// `[pairs of range, rows, kv_len]`.
    fn earlier(
        &self,
        starts: IntTensor<B>,
        q: &FloatTensor<B>,
        range: core::ops::Range<usize>,
    ) -> BoolTensor<B> {
        let shape = self.shape;
        let (queries, keys, bools) = positions::<B>(shape, q);
        let before_query = B::int_lower(keys.clone(), queries, bools);

        let device = q.device();
        let batches: Vec<i64> = range.map(|pair| (pair / shape.kv_heads) as i64).collect();
        let pairs = batches.len();
        let batches = TensorData::new(batches, [pairs])
            .convert_dtype(get_or_init_device_settings::<B>(&device).int_dtype.into());
        let starts = B::int_select(starts, 0, B::int_from_data(batches, &device));
        let all = Shape::new([pairs, shape.q_len, shape.kv_len]);
        let starts = B::int_reshape(starts, Shape::new([pairs, shape.q_len, 1]));
        let starts = B::int_expand(starts, all.clone());
        let before_start = B::int_lower(B::int_expand(keys, all.clone()), starts, bools);
        let hidden = B::bool_and(before_start, B::bool_expand(before_query, all));
        by_row::<B>(hidden, shape)
    }
}

/// Returns the positions of the queries and of the keys, both `[1, q_len, kv_len]`, and the dtype of masks.
fn positions<B: Backend>(
    shape: AttentionShape,
    q: &FloatTensor<B>,
) -> (IntTensor<B>, IntTensor<B>, BoolDType) {
    let AttentionShape { q_len, kv_len, .. } = shape;
    let device = q.device();
    let settings = get_or_init_device_settings::<B>(&device);
    let (first, last) = (shape.visible(0) - 1, shape.visible(q_len - 1));
    let queries = B::int_arange(first as i64..last as i64, &device, settings.int_dtype);
    let keys = B::int_arange(0..kv_len as i64, &device, settings.int_dtype);
    let all = Shape::new([1, q_len, kv_len]);
    let queries = B::int_reshape(queries, Shape::new([1, q_len, 1]));
    let keys = B::int_reshape(keys, Shape::new([1, 1, kv_len]));
    (
        B::int_expand(queries, all.clone()),
        B::int_expand(keys, all),
        settings.bool_dtype,
    )
}

/// Repeats a mask `[n, q_len, kv_len]` for the rows, of which each position has `group`: `[n, rows, kv_len]`.
fn by_row<B: Backend>(mask: BoolTensor<B>, shape: AttentionShape) -> BoolTensor<B> {
    let AttentionShape {
        q_len,
        kv_len,
        group,
        ..
    } = shape;
    let [n, _, _] = mask.shape().dims();
    let mask = B::bool_reshape(mask, Shape::new([n, q_len, 1, kv_len]));
    let mask = B::bool_expand(mask, Shape::new([n, q_len, group, kv_len]));
    B::bool_reshape(mask, Shape::new([n, shape.rows(), kv_len]))
}

/// Folds `[batch, q_len, heads, n]` into `[batch · kv_heads, q_len · group, n]`, times `scale`.
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

/// Reverses [`fold_queries`], without the scale.
fn unfold_queries<B: Backend>(x: FloatTensor<B>, s: AttentionShape, n: usize) -> FloatTensor<B> {
    let x = B::float_reshape(x, Shape::new([s.batch, s.kv_heads, s.q_len, s.group, n]));
    let x = B::float_permute(x, &[0, 2, 1, 3, 4]);
    B::float_reshape(x, Shape::new([s.batch, s.q_len, s.heads(), n]))
}

/// Folds `[batch, kv_len, kv_heads, d]` into `[batch · kv_heads, kv_len, d]`.
fn fold_keys<B: Backend>(x: FloatTensor<B>, s: AttentionShape) -> FloatTensor<B> {
    let x = B::float_permute(widen::<B>(x), &[0, 2, 1, 3]);
    B::float_reshape(x, Shape::new([s.batch * s.kv_heads, s.kv_len, s.head_dim]))
}

/// Reverses [`fold_keys`].
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
