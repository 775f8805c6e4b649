//! The head with a low-rank product beside its own, against the product of both side by side.

use burn_core::tensor::{DType, Device, Int, Tensor};
use burn_fused::{
    LogitsConfig, linear_cross_entropy, lora_linear_cross_entropy, lora_token_cross_entropy,
    token_cross_entropy,
};
use qlora_test_support::values;

use crate::common::{assert_close, assert_close_within, devices, fast_devices, is_flex, tensor};
use crate::cross_entropy::{CONFIGS, targets, token_reference};

const RANK: usize = 3;

struct Operands {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    rows: Tensor<2>,
    factor: Tensor<2>,
    targets: Tensor<1, Int>,
    /// One for each token.
    weights: Tensor<1>,
}

impl Operands {
    fn new([tokens, n, vocab]: [usize; 3], device: &Device) -> Self {
        let operand = |seed, shape| {
            let operand = tensor(seed, shape, device);
            if device.is_autodiff() {
                operand.require_grad()
            } else {
                operand
            }
        };
        Self {
            hidden: operand(1, [tokens, n]),
            weight: tensor(2, [vocab, n], device),
            rows: operand(3, [tokens, RANK]),
            factor: operand(4, [RANK, vocab]),
            targets: targets(tokens, vocab, 4, device),
            weights: tensor(8, [tokens], device),
        }
    }

    /// The losses of tokens as the definition has them, of tensors that exist.
    fn composed(&self, config: LogitsConfig) -> Tensor<1> {
        let hidden = Tensor::cat(vec![self.hidden.clone(), self.rows.clone()], 1);
        let factor = self.factor.clone().transpose();
        let weight = Tensor::cat(vec![self.weight.clone(), factor], 1);
        token_reference(hidden, weight, self.targets.clone(), config)
    }

    fn losses(&self, config: LogitsConfig) -> Tensor<1> {
        let low_rank = [self.rows.clone(), self.factor.clone()];
        let (hidden, weight) = (self.hidden.clone(), self.weight.clone());
        lora_token_cross_entropy(hidden, weight, low_rank, self.targets.clone(), config)
    }

    fn sum(&self, config: LogitsConfig) -> Tensor<1> {
        let low_rank = [self.rows.clone(), self.factor.clone()];
        let (hidden, weight) = (self.hidden.clone(), self.weight.clone());
        lora_linear_cross_entropy(hidden, weight, low_rank, self.targets.clone(), config)
    }

    /// The gradients of hidden states, rows and factor from `loss`.
    fn gradients(&self, loss: Tensor<1>) -> [Tensor<2>; 3] {
        let grads = loss.backward();
        [&self.hidden, &self.rows, &self.factor].map(|operand| operand.grad(&grads).unwrap())
    }
}

fn check(shape: [usize; 3], config: LogitsConfig, device: &Device) {
    let operands = Operands::new(shape, &device.clone().autodiff());
    let weighed = |losses: Tensor<1>| (losses * operands.weights.clone()).sum();
    let expected = operands.composed(config);
    assert_close("losses", operands.losses(config), expected.clone());
    assert_close("sum", operands.sum(config), expected.sum());
    // A graph goes back once.
    for (actual, expected) in [
        (
            operands.sum(config) * 0.7,
            operands.composed(config).sum() * 0.7,
        ),
        (
            weighed(operands.losses(config)),
            weighed(operands.composed(config)),
        ),
    ] {
        let (actual, expected) = (operands.gradients(actual), operands.gradients(expected));
        for (name, (actual, expected)) in ["dhidden", "drows", "dfactor"]
            .into_iter()
            .zip(actual.into_iter().zip(expected))
        {
            assert_close(name, actual, expected);
        }
    }
    // Without a graph.
    let operands = Operands::new(shape, device);
    let expected = operands.composed(config);
    assert_close("losses", operands.losses(config), expected.clone());
    assert_close("sum", operands.sum(config), expected.sum());
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        check([1, 4, 3], LogitsConfig::default(), &device);
        check([7, 9, 5], CONFIGS[2], &device);
    }
    for device in fast_devices() {
        check([33, 20, 700], LogitsConfig::default(), &device);
        for config in CONFIGS {
            check([7, 9, 5], config, &device);
        }
        check([300, 64, 1100], CONFIGS[2], &device);
    }
}

/// More logits than a chunk of the default body holds.
#[test]
fn many_chunks_equal_the_composed_form() {
    let config = LogitsConfig::default();
    for device in fast_devices() {
        let operands = Operands::new([2_600, 4, 7_000], &device.autodiff());
        let actual = operands.gradients(operands.sum(config));
        let expected = operands.gradients(operands.composed(config).sum());
        for (actual, expected) in actual.into_iter().zip(expected) {
            assert_close("gradient", actual, expected);
        }
    }
}

/// A factor of zeros, as a fresh adapter's, leaves the losses and the gradient of the hidden states as they were.
#[test]
fn a_factor_of_zeros_changes_nothing() {
    for device in devices() {
        let device = device.autodiff();
        let mut operands = Operands::new([12, 7, 30], &device);
        operands.factor = Tensor::zeros([RANK, 30], &device).require_grad();
        let config = LogitsConfig::default();
        let [hidden, weight] = [&operands.hidden, &operands.weight].map(Clone::clone);
        let targets = operands.targets.clone();
        let plain = token_cross_entropy(hidden.clone(), weight.clone(), targets.clone(), config);
        assert_close("losses", operands.losses(config), plain);
        let plain = linear_cross_entropy(hidden.clone(), weight, targets, config);
        assert_close("sum", operands.sum(config), plain.clone());
        let [dhidden, drows, _] = operands.gradients(operands.sum(config));
        assert_close("dhidden", dhidden, hidden.grad(&plain.backward()).unwrap());
        assert!(values(drows).iter().all(|value| *value == 0.0));
    }
}

/// Hidden states and weight of 16 bits beside factors of 32.
#[test]
fn half_precision_works() {
    for device in devices() {
        for (half, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            if !device.supports_dtype(half) {
                continue;
            }
            let drawn = Operands::new([9, 16, 20], &device.clone().autodiff());
            let constant = |x: &Tensor<2>, dtype| Tensor::from_inner(x.clone().inner().cast(dtype));
            let of = |dtype| Operands {
                // Rounded, so that both begin with the same.
                hidden: constant(&constant(&drawn.hidden, half), dtype).require_grad(),
                weight: constant(&constant(&drawn.weight, half), dtype),
                rows: constant(&drawn.rows, DType::F32).require_grad(),
                factor: constant(&drawn.factor, DType::F32).require_grad(),
                targets: drawn.targets.clone(),
                weights: drawn.weights.clone(),
            };
            let (half, exact) = (of(half), of(DType::F32));
            let config = LogitsConfig::default();
            let loss = half.sum(config);
            assert_eq!(loss.dtype(), DType::F32);
            assert_close_within("loss", loss.clone(), exact.sum(config), tolerance);
            let found = half.gradients(loss);
            assert_eq!(found[0].dtype(), half.hidden.dtype());
            assert_eq!(found[2].dtype(), DType::F32);
            let expected = exact.gradients(exact.composed(config).sum());
            for (actual, expected) in found.into_iter().zip(expected) {
                assert_close_within("gradient", actual.cast(DType::F32), expected, tolerance);
            }
        }
    }
}

/// On Flex to the bit.
#[test]
fn losses_of_tokens_are_the_terms_of_the_sum() {
    let device = Device::flex();
    assert!(is_flex(&device));
    let operands = Operands::new([40, 7, 90], &device);
    let losses = values(operands.losses(LogitsConfig::default()));
    let total: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    assert_eq!(
        values(operands.sum(LogitsConfig::default())),
        [total as f32]
    );
    assert!(losses.iter().step_by(4).all(|loss| *loss == 0.0));
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let outcome = std::panic::catch_unwind(|| {
        let mut operands = Operands::new([5, 4, 9], &Device::flex());
        operands.factor = tensor(4, [RANK, 8], &Device::flex());
        values(operands.losses(LogitsConfig::default()))
    });
    let panic = outcome.expect_err("8 columns are not 9 classes");
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("5 tokens and 9 classes"), "{message}");
}
