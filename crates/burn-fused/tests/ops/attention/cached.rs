//! Rows that go on from the keys and values of the tokens before.

use burn_core::tensor::{DType, Device, Int, Tensor};
use burn_fused::{
    AttentionConfig, KeyValues, RotationAngles, cached_attention, causal_attention,
    packed_causal_attention, rope,
};

use super::packed::starts;
use crate::common::{assert_close, devices, tensor};

/// Rows of small heads, of which no lanes can share one, whose last values do not rotate.
const SMALL: Case = Case {
    shape: [2, 12, 4, 8],
    half: 3,
    kept: DType::F32,
};
/// A row of more tokens than a cube has lanes.
const LARGE: Case = Case {
    shape: [1, 150, 6, 64],
    half: 32,
    kept: DType::F32,
};
const KV_HEADS: usize = 2;

#[derive(Clone, Copy)]
struct Case {
    /// Of the queries, `[batch, seq, heads, head_dim]`.
    shape: [usize; 4],
    /// Pairs of a head that rotate.
    half: usize,
    /// What keys and values are kept in.
    kept: DType,
}

/// Returns the positions `from..to` of the second dimension.
fn part<const D: usize>(x: &Tensor<D>, from: usize, to: usize) -> Tensor<D> {
    let mut ranges = x.dims().map(|len| 0..len);
    ranges[1] = from..to;
    x.clone().slice(ranges)
}

/// Steps of many tokens, of one, and of none before the first, against all at once.
fn check(
    Case { shape, half, kept }: Case,
    rotates: bool,
    starts: Option<&Tensor<2, Int>>,
    config: AttentionConfig,
    device: &Device,
) {
    let [batch, seq, heads, d] = shape;
    let q = tensor(1, shape, device);
    let [k, v] = [2, 3].map(|seed| tensor(seed, [batch, seq, KV_HEADS, d], device));
    let [cos, sin, other] = [4, 5, 6].map(|seed| tensor(seed, [seq, half], device));
    let (query, key) = ([cos.clone(), sin.clone()], [other, sin]);
    let rotated = |x: &Tensor<4>, [cos, sin]: &[Tensor<2>; 2]| match rotates {
        true => rope(x.clone(), cos.clone(), sin.clone()),
        false => x.clone(),
    };
    let rounded = |x: Tensor<4>| x.cast(kept).cast(DType::F32);
    let (k_kept, v_kept) = (rounded(rotated(&k, &key)), rounded(v.clone()));
    let all = (rotated(&q, &query), k_kept.clone(), v_kept.clone());
    let expected = match starts {
        Some(starts) => packed_causal_attention(all.0, all.1, all.2, starts.clone(), config),
        None => causal_attention(all.0, all.1, all.2, config),
    };

    let room = [batch, seq + 3, KV_HEADS, d];
    let mut cache = KeyValues {
        keys: Tensor::zeros(room, (device, kept)),
        values: Tensor::zeros(room, (device, kept)),
        len: 0,
    };
    let mut outputs = Vec::new();
    for (from, to) in [(0, 1), (1, 5), (5, 6), (6, 7), (7, seq - 1), (seq - 1, seq)] {
        let angles =
            |tables: &[Tensor<2>; 2]| [0, 1].map(|i| tables[i].clone().slice([from..to, 0..half]));
        let angles = rotates.then(|| RotationAngles {
            query: angles(&query),
            key: angles(&key),
        });
        let inputs = [&q, &k, &v].map(|x| part(x, from, to));
        let starts = starts.map(|starts| starts.clone().slice([0..batch, from..to]));
        let (out, next) = cached_attention(inputs, angles, cache, starts, config);
        assert_eq!(next.len, to);
        cache = next;
        outputs.push(out);
    }
    let name = format!("rotates: {rotates}, {kept:?}, {config:?} on {device:?}");
    let out = Tensor::cat(outputs, 1);
    assert_eq!(out.dtype(), DType::F32, "{name}");
    assert_close(&name, out, expected);
    let held = |x: Tensor<4>| {
        x.slice([0..batch, 0..seq, 0..KV_HEADS, 0..d])
            .cast(DType::F32)
    };
    assert_close(&name, held(cache.keys), k_kept);
    assert_close(&name, held(cache.values), v_kept);
    assert!(heads > KV_HEADS);
}

#[test]
fn steps_are_what_all_at_once_is() {
    for device in devices() {
        let plain = AttentionConfig::new(0.6);
        let windowed = plain.with_window(Some(4)).with_softcap(Some(2.0));
        let starts = starts(&[&[2, 10], &[12]], &device);
        check(SMALL, true, None, plain, &device);
        check(SMALL, false, None, windowed, &device);
        check(SMALL, true, Some(&starts), plain, &device);
        check(LARGE, true, None, plain, &device);
        check(LARGE, true, None, windowed, &device);
    }
}

#[test]
fn tokens_kept_in_16_bits_are_attended_to_as_they_are_kept() {
    for device in devices() {
        let config = AttentionConfig::new(0.6);
        for kept in [DType::F16, DType::BF16] {
            if device.supports_dtype(kept) {
                check(Case { kept, ..SMALL }, true, None, config, &device);
                check(Case { kept, ..LARGE }, true, None, config, &device);
            }
        }
    }
}

#[test]
#[should_panic(expected = "do not fit behind 1 tokens")]
fn a_cache_without_room_is_refused() {
    let device = devices().remove(0);
    let x = || tensor(1, [1, 2, 1, 4], &device);
    let cache = KeyValues {
        keys: x(),
        values: x(),
        len: 1,
    };
    cached_attention(
        [x(), x(), x()],
        None,
        cache,
        None,
        AttentionConfig::new(1.0),
    );
}
