use burn_core::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

use crate::config::AttentionConfig;
use crate::device::expect_served;
use crate::operands::AttentionMask;
use crate::ops::FusedOps;

/// Computes causal grouped-query attention, `softmax(q·kᵀ · scale + mask) · v` head by head, in
/// tiles with a running softmax (Dao et al., FlashAttention-2): neither pass keeps the scores.
///
/// `q: [batch, q_len, heads, head_dim]`, `k` and `v`: `[batch, kv_len, kv_heads, head_dim]`; the
/// result has q's shape and dtype. Query head `h` reads key-value head `h / (heads / kv_heads)`.
/// Queries are the last `q_len` of the `kv_len` positions: query `i` sees the keys
/// `0..=kv_len - q_len + i`, so that the same call serves training and generation with a cache.
/// The backward pass keeps `q`, `k`, `v`, the result and one f32 a row.
///
/// A [window](AttentionConfig::window) hides earlier keys too, of the cache as of the rest; a
/// [softcap](AttentionConfig::softcap) bounds the scores before they are masked.
///
/// # Panics
/// When the shapes do not fit each other, `heads` is not a multiple of `kv_heads`, there are
/// more queries than keys, the window is 0, or the softcap is not positive and finite.
///
/// ```
/// use burn_core::tensor::Tensor;
/// use burn_fused::{AttentionConfig, causal_attention};
///
/// # #[cfg(feature = "flex")] {
/// let device = burn_core::tensor::Device::flex();
/// let q = Tensor::<4>::ones([1, 2, 1, 4], &device);
/// let v = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &device);
/// let v = v.reshape([1, 2, 1, 4]);
/// // A query that sees itself alone takes its own value.
/// let config = AttentionConfig::new(0.5).with_window(Some(1));
/// let out = causal_attention(q.clone(), q, v.clone(), config);
/// assert_eq!(out.into_data(), v.into_data());
/// # }
/// ```
pub fn causal_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    config: AttentionConfig,
) -> Tensor<4> {
    attend("causal_attention", q, k, v, AttentionMask::Causal, config)
}

/// Computes [`causal_attention`] in rows that hold several sequences one after another: a query sees what its
/// own sequence has up to it, and of that what the window leaves. Tiles between sequences are not computed.
///
/// `starts: [batch, q_len]` tells for every query the first position it sees, that of its sequence's
/// first token. Whatever it says, a query sees itself; a token of padding that starts at its own
/// position costs next to nothing.
///
/// # Panics
/// As [`causal_attention`] does, and when `starts` is not `[batch, q_len]`.
pub fn packed_causal_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    starts: Tensor<2, Int>,
    config: AttentionConfig,
) -> Tensor<4> {
    check_starts("packed_causal_attention", &q, &starts);
    let mask = AttentionMask::of(Some(starts));
    attend("packed_causal_attention", q, k, v, mask, config)
}

fn attend(
    name: &str,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: AttentionMask<Dispatch>,
    config: AttentionConfig,
) -> Tensor<4> {
    assert_eq!(k.dims(), v.dims(), "{name}: k and v must have one shape");
    check(name, &q, k.dims(), config);
    expect_served(name, &q);
    Tensor::from_dispatch(<Dispatch as FusedOps>::causal_attention(
        q.dequantize().into_dispatch(),
        k.dequantize().into_dispatch(),
        v.dequantize().into_dispatch(),
        mask,
        config,
    ))
}

/// Refuses what attention of `q` to keys and values of a shape cannot be.
///
/// # Panics
/// As [`causal_attention`] does.
pub(super) fn check(name: &str, q: &Tensor<4>, keys: [usize; 4], config: AttentionConfig) {
    let [batch, q_len, heads, head_dim] = q.dims();
    let [k_batch, kv_len, kv_heads, k_dim] = keys;
    assert!(
        batch == k_batch && head_dim == k_dim,
        "{name}: q {:?} and k {keys:?} must have one batch and one head_dim",
        q.dims()
    );
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{name}: {heads} query heads are not a multiple of {kv_heads} key-value heads"
    );
    assert!(
        q_len <= kv_len,
        "{name}: {q_len} queries are more than {kv_len} keys"
    );
    assert!(
        config.window != Some(0),
        "{name}: the window must have room for the query itself, it is 0"
    );
    assert!(
        config
            .softcap
            .is_none_or(|cap| cap > 0.0 && cap.is_finite()),
        "{name}: the softcap must be positive and finite, it is {:?}",
        config.softcap
    );
}

/// Refuses starts of other queries.
///
/// # Panics
/// When `starts` is not `[batch, q_len]`.
pub(super) fn check_starts(name: &str, q: &Tensor<4>, starts: &Tensor<2, Int>) {
    let [batch, q_len, _, _] = q.dims();
    assert_eq!(
        starts.dims(),
        [batch, q_len],
        "{name}: starts must be [batch, q_len]"
    );
}
