use burn_core::tensor::{DType, Device, Tensor};
use burn_fused::{Prologue, RmsNormConfig, linear, matmul, rms_norm};
use qlora_test_support::{Tolerance, assert_close, values};

use crate::common::{assert_close_within, devices, leaf, loss, tensor};

fn norm(width: usize, device: &Device) -> (Tensor<1>, RmsNormConfig) {
    let config = RmsNormConfig::new(1e-5).with_unit_offset(true);
    (tensor(7, [width], device), config)
}

/// One row, rows up to those of a kernel for few, and more of them; vectors of elements and a width that has none.
#[test]
fn it_is_the_norm_and_the_product() {
    for device in devices() {
        for [m, k, n] in [[1, 64, 40], [3, 51, 70], [8, 128, 33], [9, 64, 10]] {
            let (x, weight) = (tensor(1, [m, k], &device), tensor(2, [n, k], &device));
            let (factors, config) = norm(k, &device);
            let plain = linear(x.clone(), Prologue::None, weight.clone());
            let name = format!("{m} x {k} x {n} on {device:?}");
            let expected = matmul(x.clone(), weight.clone().transpose());
            assert_close_within(&name, plain, expected, 1e-5);
            let normalized = rms_norm(x.clone(), factors.clone(), config);
            let expected = matmul(normalized, weight.clone().transpose());
            let prologue = Prologue::RmsNorm {
                weight: factors,
                config,
            };
            let name = format!("normalized {name}");
            assert_close_within(&name, linear(x, prologue, weight), expected, 1e-5);
        }
    }
}

#[test]
fn it_has_their_gradients() {
    for device in devices() {
        let device = device.autodiff();
        let [one, other] = [0, 1].map(|way| {
            let (x, weight) = (leaf(1, [3, 24], &device), leaf(2, [10, 24], &device));
            let (factors, config) = norm(24, &device);
            let y = if way == 0 {
                let prologue = Prologue::RmsNorm {
                    weight: factors,
                    config,
                };
                linear(x.clone(), prologue, weight.clone())
            } else {
                matmul(
                    rms_norm(x.clone(), factors, config),
                    weight.clone().transpose(),
                )
            };
            let gradients = loss(y).backward();
            [x, weight].map(|leaf| leaf.grad(&gradients).expect("it is tracked"))
        });
        for (one, other) in one.into_iter().zip(other) {
            assert_close_within("gradient", one, other, 1e-5);
        }
    }
}

#[test]
fn half_operands_are_rounded_once() {
    for device in devices() {
        for (dtype, rounding) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let operand = |seed, shape| tensor::<2>(seed, shape, &device).cast(dtype);
            let (x, weight) = (operand(1, [2, 96]), operand(2, [40, 96]));
            let wide = |operand: &Tensor<2>| operand.clone().cast(DType::F32);
            let y = linear(x.clone(), Prologue::None, weight.clone());
            assert_eq!(y.dtype(), dtype);
            let expected = matmul(wide(&x), wide(&weight).transpose());
            let tolerance = Tolerance::of_largest(rounding, "one rounding of the result");
            assert_close("y", &values(wide(&y)), &values(expected), tolerance);
        }
    }
}

#[test]
#[should_panic(expected = "linear: [2, 3] does not go through [4, 5]")]
fn widths_that_differ_are_refused() {
    let device = devices().remove(0);
    let (x, weight) = (tensor(1, [2, 3], &device), tensor(2, [4, 5], &device));
    linear(x, Prologue::None, weight);
}

#[test]
#[should_panic(expected = "linear: the norm has the width of x")]
fn a_norm_of_another_width_is_refused() {
    let device = devices().remove(0);
    let (weight, config) = norm(4, &device);
    let prologue = Prologue::RmsNorm { weight, config };
    let (x, weight) = (tensor(1, [2, 3], &device), tensor(2, [4, 3], &device));
    linear(x, prologue, weight);
}
