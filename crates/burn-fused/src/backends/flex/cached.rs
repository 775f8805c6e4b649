//! Attention of a few new tokens to those that are kept: they are written where they stay, and all are read there.

use burn_core::backend::{Flex, TensorMetadata};
use burn_flex::FlexTensor;
use burn_operands::flex::{FlexElement, Values, integers, tensor, update};
use qlora_cpu::attention::{self, HeadsRef, Operands};
use qlora_cpu::isa;

use super::values::Heads;
use crate::config::AttentionConfig;
use crate::operands::{AttentionMask, CachedTokens};

/// Attends with `[q, k, v]`, which are rotated, to what is kept in `K` and to themselves.
pub(super) fn forward<E: FlexElement, K: FlexElement>(
    [q, k, v]: [FlexTensor; 3],
    cache: CachedTokens<Flex>,
    mask: AttentionMask<Flex>,
    config: AttentionConfig,
) -> (FlexTensor, CachedTokens<Flex>) {
    let len = cache.len + k.shape()[1];
    let keys = append::<K>(cache.keys, k, cache.len);
    let values = append::<K>(cache.values, v, cache.len);
    let starts = mask.starts().map(integers);
    let (shape, q) = (q.shape(), Heads::<E>::new(q));
    let operands = Operands {
        q: q.view(),
        k: first_tokens::<K>(&keys, len),
        v: first_tokens(&values, len),
        sequence_offsets: starts.as_ref().map(|starts| starts.storage()),
        config,
    };
    let (out, _) = attention::forward_few(isa(), &operands);
    (tensor(shape, out), CachedTokens { keys, values, len })
}

/// Writes `new: [batch, q_len, heads, d]` behind the first `held` tokens of `kept: [batch, room, heads, d]`.
fn append<K: FlexElement>(kept: FlexTensor, new: FlexTensor, held: usize) -> FlexTensor {
    let [batch, room, heads, d] = kept.shape().dims();
    let (width, new) = (heads * d, Values::<K>::new(new));
    let count = new.len() / batch.max(1);
    update::<K>(kept, |kept| {
        for row in 0..batch {
            let first = (row * room + held) * width;
            kept[first..][..count].copy_from_slice(&new[row * count..][..count]);
        }
    })
}

/// Returns the first `len` tokens of every row of `kept: [batch, room, heads, d]`.
fn first_tokens<K: FlexElement>(kept: &FlexTensor, len: usize) -> HeadsRef<'_, K> {
    let [batch, room, heads, d] = kept.shape().dims();
    let strides = [room * heads * d, heads * d, d, 1].map(|stride| stride as isize);
    let tokens = HeadsRef::new(kept.storage(), [batch, len, heads, d], strides);
    tokens.expect("what was written to is contiguous")
}
