use burn_core::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use burn_fused::{IGNORED, LogitsConfig, linear_cross_entropy, matmul, token_cross_entropy};
use qlora_test_support::random::uniform;
use qlora_test_support::values;

use crate::common::{assert_close, devices, fast_devices, leaf, tensor};

pub fn targets(
    tokens: usize,
    vocab: usize,
    ignored_every: usize,
    device: &Device,
) -> Tensor<1, Int> {
    let classes: Vec<i64> = uniform(5, tokens)
        .into_iter()
        .enumerate()
        .map(|(i, x)| match i % ignored_every {
            0 => IGNORED,
            _ => ((x + 1.0) / 2.0 * vocab as f32) as i64 % vocab as i64,
        })
        .collect();
    Tensor::from_data(TensorData::new(classes, [tokens]), device)
}

/// Scaled, capped, both: scores of random operands of a few dozen columns are of the order of the cap.
pub const CONFIGS: [LogitsConfig; 3] = [
    LogitsConfig {
        scale: 0.4,
        softcap: None,
    },
    LogitsConfig {
        scale: 1.0,
        softcap: Some(4.0),
    },
    LogitsConfig {
        scale: 0.4,
        softcap: Some(4.0),
    },
];

/// The product is the crate's own, for Burn's is no reference where it rounds to TF32.
fn reference(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    token_reference(hidden, weight, targets, config).sum()
}

/// The terms of [`reference`].
pub fn token_reference(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    config: LogitsConfig,
) -> Tensor<1> {
    let [tokens, _] = hidden.dims();
    let logits = matmul(hidden, weight.transpose()) * config.scale;
    let logits = match config.softcap {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits,
    };
    let log_p = log_softmax(logits, 1);
    let targets = targets.reshape([tokens, 1]);
    let ignored = targets.clone().equal_elem(IGNORED);
    log_p
        .gather(1, targets.clamp_min(0))
        .mask_fill(ignored, 0.0)
        .reshape([tokens])
        .neg()
}

type Loss<'a> = &'a dyn Fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, LogitsConfig) -> Tensor<1>;

/// The loss and the gradients of `0.7 · loss`, of the operands that are tracked.
fn run(
    f: Loss,
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &Tensor<1, Int>,
    config: LogitsConfig,
) -> (Tensor<1>, Option<Tensor<2>>, Option<Tensor<2>>) {
    let loss = f(hidden.clone(), weight.clone(), targets.clone(), config);
    let grads = (loss.clone() * 0.7).backward();
    (loss, hidden.grad(&grads), weight.grad(&grads))
}

fn check(
    [tokens, n, vocab]: [usize; 3],
    ignored_every: usize,
    config: LogitsConfig,
    device: &Device,
) {
    let device = device.clone().autodiff();
    let targets = targets(tokens, vocab, ignored_every, &device);
    for (hidden_tracked, weight_tracked) in [(true, false), (true, true), (false, true)] {
        let operand = |seed, shape, tracked| {
            if tracked {
                leaf(seed, shape, &device)
            } else {
                tensor(seed, shape, &device)
            }
        };
        let hidden = operand(1, [tokens, n], hidden_tracked);
        let weight = operand(2, [vocab, n], weight_tracked);
        let actual = run(&linear_cross_entropy, &hidden, &weight, &targets, config);
        let expected = run(&reference, &hidden, &weight, &targets, config);
        assert_close("loss", actual.0, expected.0);
        assert_eq!(actual.1.is_some(), hidden_tracked);
        assert_eq!(actual.2.is_some(), weight_tracked);
        if let (Some(a), Some(e)) = (actual.1, expected.1) {
            assert_close("dhidden", a, e);
        }
        if let (Some(a), Some(e)) = (actual.2, expected.2) {
            assert_close("dweight", a, e);
        }
    }
}

/// A sum of the losses with another weight each.
fn check_tokens(
    [tokens, n, vocab]: [usize; 3],
    ignored_every: usize,
    config: LogitsConfig,
    device: &Device,
) {
    let device = device.clone().autodiff();
    let targets = targets(tokens, vocab, ignored_every, &device);
    let weights = tensor::<1>(8, [tokens], &device);
    let losses: [Loss; 2] = [&token_cross_entropy, &token_reference];
    for (hidden_tracked, weight_tracked) in [(true, false), (true, true), (false, true)] {
        let hidden = tensor(1, [tokens, n], &device).set_require_grad(hidden_tracked);
        let weight = tensor(2, [vocab, n], &device).set_require_grad(weight_tracked);
        let [actual, expected] = losses.map(|losses| {
            let losses = losses(hidden.clone(), weight.clone(), targets.clone(), config);
            let grads = (losses.clone() * weights.clone()).sum().backward();
            (losses, hidden.grad(&grads), weight.grad(&grads))
        });
        assert_close("losses", actual.0, expected.0);
        assert_eq!(actual.1.is_some(), hidden_tracked);
        assert_eq!(actual.2.is_some(), weight_tracked);
        for (name, actual, expected) in [
            ("dhidden", actual.1, expected.1),
            ("dweight", actual.2, expected.2),
        ] {
            if let (Some(actual), Some(expected)) = (actual, expected) {
                assert_close(name, actual, expected);
            }
        }
    }
}

#[test]
fn losses_of_tokens_equal_the_composed_form() {
    for device in devices() {
        check_tokens([1, 4, 3], 7, LogitsConfig::default(), &device);
        check_tokens([7, 8, 5], 3, CONFIGS[2], &device);
        check_tokens([33, 20, 700], 4, LogitsConfig::default(), &device);
    }
    for device in fast_devices() {
        // More logits than a chunk of the default body holds.
        check_tokens([2_600, 8, 7_000], 4, LogitsConfig::default(), &device);
    }
}

/// On Flex to the bit: the sum is made of the same terms, and so are the gradients.
#[test]
fn losses_of_tokens_are_the_terms_of_the_sum() {
    let device = Device::flex();
    let targets = targets(40, 90, 3, &device);
    let (hidden, weight) = (tensor(1, [40, 7], &device), tensor(2, [90, 7], &device));
    let config = LogitsConfig::default();
    let sum = linear_cross_entropy(hidden.clone(), weight.clone(), targets.clone(), config);
    let losses = values(token_cross_entropy(hidden, weight, targets, config));
    let total: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    assert_eq!(values(sum), [total as f32]);
    assert!(losses.iter().step_by(3).all(|loss| *loss == 0.0));
    assert!(losses[1] > 0.0);
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        let config = LogitsConfig::default();
        check([1, 4, 3], 7, config, &device);
        check([7, 8, 5], 3, config, &device);
        check([33, 20, 700], 4, config, &device);
        check([300, 64, 1100], 1000, config, &device);
    }
}

#[test]
fn scaled_and_capped_logits_equal_the_composed_form() {
    for device in devices() {
        for config in CONFIGS {
            check([2, 4, 3], 7, config, &device);
            check([7, 9, 5], 3, config, &device);
        }
    }
    for device in fast_devices() {
        for config in CONFIGS {
            check([300, 64, 1100], 4, config, &device);
        }
    }
}

/// More logits than a chunk of the default body holds; in tokens rather than classes, for a shader adds up a class after
/// another, and 70000 of them are 1.2e-5 off in the reference as well.
#[test]
fn many_chunks_equal_the_composed_form() {
    for device in fast_devices() {
        check([2_600, 24, 7_000], 5, LogitsConfig::default(), &device);
    }
}

#[test]
fn works_without_autodiff() {
    for device in devices() {
        let (hidden, weight) = (tensor(1, [90, 16], &device), tensor(2, [600, 16], &device));
        let targets = targets(90, 600, 4, &device);
        for config in CONFIGS.into_iter().chain([LogitsConfig::default()]) {
            let (hidden, weight, targets) = (hidden.clone(), weight.clone(), targets.clone());
            let actual =
                linear_cross_entropy(hidden.clone(), weight.clone(), targets.clone(), config);
            assert_close("loss", actual, reference(hidden, weight, targets, config));
        }
    }
}

#[test]
fn only_ignored_targets_make_zero_and_zero_gradients() {
    for device in devices() {
        let device = device.autodiff();
        let (hidden, weight) = (leaf(1, [5, 8], &device), leaf(2, [11, 8], &device));
        let targets = targets(5, 11, 1, &device);
        for config in [LogitsConfig::default(), CONFIGS[2]] {
            let (loss, dhidden, dweight) =
                run(&linear_cross_entropy, &hidden, &weight, &targets, config);
            assert_eq!(values(loss), [0.0]);
            assert!(values(dhidden.unwrap()).iter().all(|x| *x == 0.0));
            assert!(values(dweight.unwrap()).iter().all(|x| *x == 0.0));
        }
    }
}

/// Logits of ±1000 and more: nothing overflows on the way to the log-sum-exp, nor in the cap.
#[test]
fn large_logits_stay_finite() {
    for device in devices() {
        let device = device.autodiff();
        let hidden = (tensor(1, [40, 16], &device) * 300.0).require_grad();
        let weight = tensor(2, [1500, 16], &device) * 3.0;
        let targets = targets(40, 1500, 9, &device);
        for config in [LogitsConfig::default(), CONFIGS[1]] {
            let actual = run(&linear_cross_entropy, &hidden, &weight, &targets, config);
            let expected = run(&reference, &hidden, &weight, &targets, config);
            assert_close("loss", actual.0, expected.0);
            assert_close("dhidden", actual.1.unwrap(), expected.1.unwrap());
        }
    }
}

/// What a model generates by is what it is trained on.
#[test]
fn the_loss_is_of_the_logits_that_are_applied() {
    for device in devices() {
        let (hidden, weight) = (tensor(1, [9, 16], &device), tensor(2, [50, 16], &device));
        let targets = targets(9, 50, 4, &device);
        for config in CONFIGS {
            let logits = config.apply(matmul(hidden.clone(), weight.clone().transpose()));
            let identity = Tensor::eye(50, &device);
            let plain = LogitsConfig::default();
            let expected = linear_cross_entropy(logits, identity, targets.clone(), plain);
            let (hidden, weight, targets) = (hidden.clone(), weight.clone(), targets.clone());
            let actual = linear_cross_entropy(hidden, weight, targets, config);
            assert_close("loss", actual, expected);
        }
    }
}

/// A cap takes infinities to the bound; what is no number must not pass for one.
#[test]
fn nan_goes_through_the_cap() {
    for device in devices() {
        let hidden = Tensor::<2>::from_floats([[0.5, f32::NAN]], &device);
        let weight = tensor(2, [11, 2], &device);
        let targets = Tensor::from_data(TensorData::new(vec![3i64], [1]), &device);
        let loss = linear_cross_entropy(hidden, weight, targets, CONFIGS[1]);
        assert!(values(loss)[0].is_nan());
    }
}

#[test]
fn a_bound_of_zero_is_refused() {
    for softcap in [0.0, -1.0, f64::NAN] {
        let outcome = std::panic::catch_unwind(|| {
            let device = devices().remove(0);
            let config = LogitsConfig::default().with_softcap(Some(softcap));
            config.apply(tensor::<2>(1, [2, 3], &device))
        });
        let panic = outcome.expect_err("a bound of 0 makes no logits");
        let message = panic.downcast_ref::<String>().unwrap();
        let expected = "the soft cap of the logits must be a finite number above 0";
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_target_outside_the_vocabulary_never_passes_for_a_class() {
    for device in devices() {
        for wrong in [11, -1, -101, i32::MAX as i64] {
            let device = device.clone();
            let outcome = std::panic::catch_unwind(move || {
                let targets = TensorData::new(vec![3i64, wrong], [2]);
                let loss = linear_cross_entropy(
                    tensor(1, [2, 8], &device),
                    tensor(2, [11, 8], &device),
                    Tensor::from_data(targets, &device),
                    LogitsConfig::default(),
                );
                values(loss)[0]
            });
            match outcome {
                Ok(loss) => assert!(loss.is_nan(), "target {wrong}: loss {loss}"),
                Err(panic) => {
                    let message = panic.downcast_ref::<String>().unwrap();
                    let expected = format!("target {wrong} of token 1 is neither below 11");
                    assert!(message.contains(&expected), "{message}");
                }
            }
        }
    }
}
