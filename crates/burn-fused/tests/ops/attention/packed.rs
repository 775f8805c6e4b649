//! Rows that hold several sequences.

use burn_core::tensor::{Device, Int, Tensor, TensorData};
use burn_fused::{AttentionConfig, causal_attention, packed_causal_attention, rope};

use super::composed::{assert_outputs_close, attend, outputs};
use crate::common::{assert_close, devices, tensor};

/// The first position of the sequence that each position is in, row after row.
pub fn starts(rows: &[&[usize]], device: &Device) -> Tensor<2, Int> {
    let firsts: Vec<i64> = rows
        .iter()
        .flat_map(|lengths| {
            let ends = lengths.iter().scan(0, |end, len| {
                *end += len;
                Some((*end - len, *len))
            });
            ends.flat_map(|(start, len)| std::iter::repeat_n(start as i64, len))
        })
        .collect();
    let seq = firsts.len() / rows.len();
    Tensor::from_data(TensorData::new(firsts, [rows.len(), seq]), device)
}

/// Compares with the composed form on the first device, as [`check`](super::check) does.
#[track_caller]
pub fn check(
    rows: &[&[usize]],
    [heads, kv_heads, d]: [usize; 3],
    config: AttentionConfig,
    device: &Device,
) {
    let run = |fused: bool, device: &Device| {
        let device = device.clone().autodiff();
        let starts = starts(rows, &device);
        let [batch, seq] = starts.dims();
        let shapes = [[batch, seq, heads, d], [batch, seq, kv_heads, d]];
        outputs(shapes, &device, |q, k, v| match fused {
            true => packed_causal_attention(q, k, v, starts.clone(), config),
            false => attend(q, k, v, Some(starts.clone()), config),
        })
    };
    let name = format!("{rows:?} {config:?} on {device:?}");
    let expected = run(false, &devices().remove(0));
    assert_outputs_close(&name, run(true, device), expected);
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        let config = AttentionConfig::new(0.7);
        check(&[&[1]], [1, 1, 2], config, &device);
        check(&[&[3, 4, 2], &[9], &[1, 1, 7]], [6, 2, 8], config, &device);
        check(&[&[70, 30, 33], &[5, 100, 28]], [4, 4, 16], config, &device);
        // Sequences that begin and end within tiles, and padding of one token each.
        let mut padded = vec![300, 250];
        padded.extend([1; 50]);
        check(&[&padded, &[20, 270, 310]], [3, 1, 16], config, &device);
    }
}

/// Two rows of three sequences against the six sequences alone, positions and all.
#[test]
fn equals_the_sequences_run_separately() {
    for device in devices() {
        let device = device.autodiff();
        let rows: [&[usize]; 2] = [&[40, 75, 25], &[90, 1, 49]];
        let (heads, kv_heads, d, seq) = (6, 2, 8, 140);
        let starts = starts(&rows, &device);
        let angle = tensor::<2>(7, [seq, d / 2], &device) * 3.0;
        let positions = Tensor::<1, Int>::arange(0..seq as i64, &device)
            .reshape([1, seq])
            .expand([2, seq])
            - starts.clone();
        let own = angle.clone().select(0, positions.reshape([2 * seq]));
        let turned =
            |x: Tensor<4>, angle: &Tensor<2>| rope(x, angle.clone().cos(), angle.clone().sin());
        let packed = |q, k, v| {
            let (q, k) = (turned(q, &own), turned(k, &own));
            packed_causal_attention(q, k, v, starts.clone(), AttentionConfig::new(0.7))
        };
        let alone = |q: Tensor<4>, k: Tensor<4>, v: Tensor<4>| {
            let rows = rows.iter().enumerate().map(|(row, lengths)| {
                let mut start = 0;
                let parts = lengths.iter().map(|len| {
                    let part = |x: &Tensor<4>| x.clone().narrow(0, row, 1).narrow(1, start, *len);
                    let [q, k, v] = [part(&q), part(&k), part(&v)];
                    let angle = angle.clone().narrow(0, 0, *len);
                    start += len;
                    let (q, k) = (turned(q, &angle), turned(k, &angle));
                    causal_attention(q, k, v, AttentionConfig::new(0.7))
                });
                Tensor::cat(parts.collect(), 1)
            });
            Tensor::cat(rows.collect(), 0)
        };
        let shapes = [[2, seq, heads, d], [2, seq, kv_heads, d]];
        let expected = outputs(shapes, &device, alone);
        assert_outputs_close("packed", outputs(shapes, &device, packed), expected);
    }
}

/// Queries whose earlier keys are in a cache, behind padding in one of the rows.
#[test]
fn the_last_queries_give_what_they_give_in_whole_rows() {
    for device in devices() {
        let (seq, d) = (70, 8);
        let starts = starts(&[&[9, 61], &[70]], &device);
        let q = tensor::<4>(1, [2, seq, 4, d], &device);
        let k = tensor::<4>(2, [2, seq, 2, d], &device);
        let v = tensor::<4>(3, [2, seq, 2, d], &device);
        for window in [None, Some(20)] {
            let config = AttentionConfig::new(0.5).with_window(window);
            let of = |count: usize| {
                let queries = q.clone().narrow(1, seq - count, count);
                let starts = starts.clone().narrow(1, seq - count, count);
                packed_causal_attention(queries, k.clone(), v.clone(), starts, config)
            };
            for count in [1, 5, 66] {
                let expected = of(seq).narrow(1, seq - count, count);
                assert_close("out", of(count), expected);
            }
        }
    }
}

/// Starts that no sequence has: before the row, and after the query.
#[test]
fn a_query_sees_itself_whatever_the_start() {
    for device in devices() {
        let q = tensor::<4>(1, [1, 3, 2, 4], &device);
        let v = tensor::<4>(2, [1, 3, 2, 4], &device);
        let at = |starts: [i64; 3]| {
            let starts = TensorData::new(starts.to_vec(), [1, 3]);
            let starts = Tensor::from_data(starts, &device);
            packed_causal_attention(
                q.clone(),
                q.clone(),
                v.clone(),
                starts,
                AttentionConfig::new(0.5),
            )
        };
        assert_close("out", at([7, 9, 5]), v.clone());
        let config = AttentionConfig::new(0.5);
        let expected = causal_attention(q.clone(), q.clone(), v.clone(), config);
        assert_close("out", at([-2, -1, 0]), expected);
    }
}

#[test]
#[should_panic(expected = "packed_causal_attention: starts must be [batch, q_len]")]
fn starts_of_another_shape_are_refused() {
    let device = devices().remove(0);
    let q = tensor::<4>(1, [1, 5, 1, 8], &device);
    let starts = starts(&[&[2, 2]], &device);
    packed_causal_attention(q.clone(), q.clone(), q, starts, AttentionConfig::new(1.0));
}
