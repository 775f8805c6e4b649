//! Windows and softcaps, alone and together.

use burn_core::tensor::Tensor;
use burn_fused::{AttentionConfig, causal_attention};

use qlora_test_support::values;

use super::composed::outputs;
use super::{check, packed, plain};
use crate::common::{assert_close, devices, fast_devices, tensor};

/// Windows and softcaps; the bounds lie within scores of order 1 and beyond them.
const SETTINGS: [(Option<usize>, Option<f64>); 5] = [
    (Some(2), None),
    (Some(7), Some(0.8)),
    (Some(40), None),
    (None, Some(0.5)),
    (Some(256), Some(20.0)),
];

fn with(config: AttentionConfig, settings: (Option<usize>, Option<f64>)) -> AttentionConfig {
    let (window, softcap) = settings;
    config.with_window(window).with_softcap(softcap)
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        for settings in SETTINGS {
            for sizes in [
                [1, 9, 9, 1, 1, 8],
                [2, 5, 5, 3, 1, 6],
                [1, 33, 33, 4, 2, 16],
                [2, 70, 70, 9, 3, 64],
                [1, 131, 131, 2, 2, 33],
            ] {
                check(sizes, with(plain(sizes, 3.0), settings), &device);
            }
        }
    }
}

#[test]
fn wide_heads_equal_the_composed_form() {
    for device in devices() {
        for settings in [(Some(7), None), (Some(20), Some(0.8))] {
            for sizes in [[1, 40, 40, 4, 2, 128], [1, 37, 37, 2, 1, 256]] {
                check(sizes, with(plain(sizes, 3.0), settings), &device);
            }
        }
    }
}

/// The window counts positions of the cache: it reaches into it, ends before it, or hides most of it.
#[test]
fn queries_are_the_last_of_the_keys() {
    for device in devices() {
        for settings in SETTINGS {
            for sizes in [
                [1, 1, 9, 6, 2, 8],
                [2, 1, 300, 4, 2, 24],
                [2, 3, 70, 6, 3, 16],
                [1, 65, 129, 3, 1, 8],
            ] {
                check(sizes, with(plain(sizes, 3.0), settings), &device);
            }
        }
    }
}

/// Tiles of keys are hidden whole, and scores grow so far that the carried maximum moves.
#[test]
fn rows_longer_than_a_tile_equal_the_composed_form() {
    for device in fast_devices() {
        for (settings, gain) in [
            ((Some(100), None), 30.0),
            ((Some(300), Some(2.0)), 3.0),
            ((None, Some(5.0)), 30.0),
        ] {
            for sizes in [[1, 300, 700, 3, 1, 16], [1, 600, 600, 1, 1, 8]] {
                check(sizes, with(plain(sizes, gain), settings), &device);
            }
        }
    }
}

/// Sequences shorter and longer than the window, and padding of one token each.
#[test]
fn packed_rows_equal_the_composed_form() {
    for device in devices() {
        for settings in SETTINGS {
            let config = with(AttentionConfig::new(0.7), settings);
            packed::check(&[&[3, 4, 2], &[9], &[1, 1, 7]], [6, 2, 8], config, &device);
            packed::check(&[&[70, 30, 33], &[5, 100, 28]], [4, 4, 16], config, &device);
            packed::check(&[&[300, 60, 1, 1]], [3, 1, 16], config, &device);
        }
    }
}

/// The softmax of a single score is 1 whatever it is.
#[test]
fn a_query_that_sees_itself_alone_takes_its_own_value() {
    for device in devices() {
        let device = device.autodiff();
        let config = AttentionConfig::new(0.4).with_window(Some(1));
        let shapes = [[2, 70, 2, 16], [2, 90, 2, 16]];
        let [out, dq, dk, dv] = outputs(shapes, &device, |q, k, v| {
            causal_attention(q, k, v, config.with_softcap(Some(0.5)))
        });
        let own = |x: Tensor<4>| x.narrow(1, 20, 70);
        assert_close("out", out.clone(), own(tensor(3, shapes[1], &device)));
        let grad = tensor(99, shapes[0], &device);
        assert_close("dv", own(dv.clone()), grad);
        for (name, zero, limit) in [
            ("dq", dq, 1e-6),
            ("dk", dk, 1e-6),
            ("dv", dv.narrow(1, 0, 20), 0.0),
        ] {
            assert!(values(zero).into_iter().all(|x| x.abs() <= limit), "{name}");
        }
    }
}

#[test]
fn a_window_as_long_as_the_row_changes_nothing() {
    for device in devices() {
        let q = tensor::<4>(1, [2, 33, 4, 16], &device);
        let [k, v] = [2, 3].map(|seed| tensor::<4>(seed, [2, 40, 2, 16], &device));
        let config = AttentionConfig::new(0.4);
        let run = |config| causal_attention(q.clone(), k.clone(), v.clone(), config);
        for window in [40, usize::MAX] {
            assert_close("out", run(config.with_window(Some(window))), run(config));
        }
    }
}

fn refused(config: AttentionConfig) {
    let device = devices().remove(0);
    let x: Tensor<4> = tensor(2, [1, 4, 1, 8], &device);
    causal_attention(x.clone(), x.clone(), x, config);
}

#[test]
#[should_panic(expected = "causal_attention: the window must have room for the query itself")]
fn a_window_of_nothing_is_refused() {
    refused(AttentionConfig::new(1.0).with_window(Some(0)));
}

#[test]
#[should_panic(
    expected = "causal_attention: the softcap must be positive and finite, it is Some(0.0)"
)]
fn a_softcap_of_zero_is_refused() {
    refused(AttentionConfig::new(1.0).with_softcap(Some(0.0)));
}

#[test]
#[should_panic(
    expected = "causal_attention: the softcap must be positive and finite, it is Some(NaN)"
)]
fn a_softcap_that_is_no_number_is_refused() {
    refused(AttentionConfig::new(1.0).with_softcap(Some(f64::NAN)));
}
