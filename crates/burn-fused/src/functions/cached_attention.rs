use burn_core::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

use super::{attention, rope};
use crate::config::AttentionConfig;
use crate::device::expect_served;
use crate::operands::{AttentionMask, CachedTokens, Rotation};
use crate::ops::FusedOps;

/// Keys and values of the tokens that rows have so far.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// `[batch, room, kv_heads, head_dim]`, rotated, in any floating-point dtype.
    pub keys: Tensor<4>,
    /// Like `keys`.
    pub values: Tensor<4>,
    /// The tokens of a row that are held, which come first.
    pub len: usize,
}

/// Cosines and sines by which queries and keys rotate, as [`rope`](crate::rope) takes them.
#[derive(Clone, Debug)]
pub struct RotationAngles {
    /// Cosines and sines of the queries.
    pub query: [Tensor<2>; 2],
    /// Cosines and sines of the keys.
    pub key: [Tensor<2>; 2],
}

/// Continues rows of which keys and values are kept: [`rope`](crate::rope) of `q` and `k`, both then behind what `cache` holds, and
/// [`causal_attention`](crate::causal_attention) of `q` to all of it. With `starts`, it is
/// [`packed_causal_attention`](crate::packed_causal_attention).
///
/// `[q, k, v]`: `q: [batch, q_len, heads, head_dim]`, `k` and `v`: `[batch, q_len, kv_heads, head_dim]`. Returns what is attended,
/// of q's shape and dtype, and the cache with `q_len` tokens more, which is written in place where nobody else holds its tensors. A
/// cache of another dtype keeps the new tokens rounded to it, and so are they attended to.
///
/// # Panics
/// As the functions that it is composed of, and when the cache has another shape than `k` and `v`, or no room.
pub fn cached_attention(
    [q, k, v]: [Tensor<4>; 3],
    angles: Option<RotationAngles>,
    cache: KeyValues,
    starts: Option<Tensor<2, Int>>,
    config: AttentionConfig,
) -> (Tensor<4>, KeyValues) {
    const NAME: &str = "cached_attention";
    let ([batch, q_len, kv_heads, d], held) = (k.dims(), cache.len);
    for (kept, new) in [(&cache.keys, &k), (&cache.values, &v)] {
        let [rows, room, heads, width] = kept.dims();
        let fits = [rows, heads, width] == [batch, kv_heads, d] && held + q_len <= room;
        assert!(
            fits,
            "{NAME}: {:?} do not fit behind {held} tokens in {:?}",
            new.dims(),
            kept.dims()
        );
    }
    assert_eq!(v.dims(), k.dims(), "{NAME}: k and v must have one shape");
    attention::check(NAME, &q, [batch, held + q_len, kv_heads, d], config);
    if let Some(starts) = &starts {
        attention::check_starts(NAME, &q, starts);
    }
    expect_served(NAME, &q);
    let rotation = angles.map_or(Rotation::None, |RotationAngles { query, key }| {
        for (x, [cos, sin]) in [(&q, &query), (&k, &key)] {
            rope::check(NAME, x, cos, sin);
        }
        if key[0].dims()[1] == 0 {
            return Rotation::None;
        }
        let [query_cos, query_sin] = query.map(|table| table.dequantize().into_dispatch());
        let [key_cos, key_sin] = key.map(|table| table.dequantize().into_dispatch());
        Rotation::Angles {
            query_cos,
            query_sin,
            key_cos,
            key_sin,
        }
    });
    let cached = CachedTokens {
        keys: cache.keys.dequantize().into_dispatch(),
        values: cache.values.dequantize().into_dispatch(),
        len: held,
    };
    let (out, cached) = <Dispatch as FusedOps>::cached_attention(
        q.dequantize().into_dispatch(),
        k.dequantize().into_dispatch(),
        v.dequantize().into_dispatch(),
        rotation,
        cached,
        AttentionMask::of(starts),
        config,
    );
    let cache = KeyValues {
        keys: Tensor::from_dispatch(cached.keys),
        values: Tensor::from_dispatch(cached.values),
        len: cached.len,
    };
    (Tensor::from_dispatch(out), cache)
}
