//! Attention to tokens that are kept, composed of the rotation, the writes and the attention.

use std::ops::Range;

use burn_core::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn_core::tensor::Slice;

use super::precision::cast;
use crate::config::AttentionConfig;
use crate::operands::{AttentionMask, CachedTokens, Rotation};
use crate::ops::FusedOps;

/// Takes `[q, k, v]`.
pub(crate) fn forward<B: FusedOps>(
    [q, k, mut v]: [FloatTensor<B>; 3],
    rotation: Rotation<B>,
    cache: CachedTokens<B>,
    mask: AttentionMask<B>,
    config: AttentionConfig,
) -> (FloatTensor<B>, CachedTokens<B>) {
    let (q, mut k) = rotated::<B>(q, k, rotation);
    let CachedTokens {
        mut keys,
        mut values,
        len: held,
    } = cache;
    let len = held + k.shape()[1];
    (k, v) = (cast::<B>(k, keys.dtype()), cast::<B>(v, values.dtype()));
    keys = B::float_slice_assign(keys, &tokens::<B>(&k, held..len), k.clone());
    values = B::float_slice_assign(values, &tokens::<B>(&v, held..len), v);
    let seen = tokens::<B>(&k, 0..len);
    drop(k);
    let [all_keys, all_values] =
        [&keys, &values].map(|tensor| B::float_slice(tensor.clone(), &seen));
    let out = B::causal_attention(q, all_keys, all_values, mask, config);
    (out, CachedTokens { keys, values, len })
}

/// Returns `q` and `k`, rotated.
pub(crate) fn rotated<B: FusedOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    rotation: Rotation<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    match rotation {
        Rotation::None => (q, k),
        Rotation::Angles {
            query_cos,
            query_sin,
            key_cos,
            key_sin,
        } => (
            B::rope(q, query_cos, query_sin, false),
            B::rope(k, key_cos, key_sin, false),
        ),
    }
}

/// Returns the place of some tokens of every row, for tensors of as many rows, heads and values as `like`.
fn tokens<B: Backend>(like: &FloatTensor<B>, tokens: Range<usize>) -> [Slice; 4] {
    let [batch, _, heads, d] = like.shape().dims();
    [0..batch, tokens, 0..heads, 0..d].map(Slice::from)
}
