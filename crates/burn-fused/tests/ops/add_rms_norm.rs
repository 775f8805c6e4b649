use burn_core::tensor::{Device, Tensor};
use burn_fused::{RmsNormConfig, add_rms_norm, residual_rms_norm};
use qlora_test_support::values;

use crate::common::{assert_close, devices, leaf, loss, tensor};

const EPS: f64 = 1e-5;
const CONFIG: RmsNormConfig = RmsNormConfig::new(EPS);

type Outputs = (Tensor<3>, Tensor<3>);

fn reference(x: Tensor<3>, residual: Tensor<3>, weight: Tensor<1>) -> Outputs {
    let sum = residual + x;
    let mean = sum.clone().square().mean_dim(2);
    let y = sum.clone() / (mean + EPS).sqrt() * weight.unsqueeze();
    (sum, y)
}

fn fused(x: Tensor<3>, residual: Tensor<3>, weight: Tensor<1>) -> Outputs {
    add_rms_norm(x, residual, weight, CONFIG)
}

/// [`reference`] and [`fused`] with the factor `1 + weight`.
const OFFSET: [fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Outputs; 2] = [
    |x, residual, weight| reference(x, residual, weight + 1.0),
    |x, residual, weight| add_rms_norm(x, residual, weight, CONFIG.with_unit_offset(true)),
];

/// The results that the loss depends on.
#[derive(Clone, Copy, Debug)]
enum Used {
    Both,
    Sum,
    Normalized,
    /// As in a block: a branch reads the normalized values and is added to the sum.
    Branch,
}

fn loss_of(used: Used, (sum, y): Outputs) -> Tensor<1> {
    match used {
        // Another loss for each, so that an exchange would show.
        Used::Both => loss(sum) * 0.5 + loss(y.clone() * y),
        Used::Sum => loss(sum),
        Used::Normalized => loss(y),
        Used::Branch => loss((y * 0.7).tanh() + sum),
    }
}

fn check(shape: [usize; 3], used: Used, device: &Device) {
    check_forms([reference, fused], shape, used, device);
    check_forms(OFFSET, shape, used, device);
}

fn check_forms(
    [reference, fused]: [fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Outputs; 2],
    shape: [usize; 3],
    used: Used,
    device: &Device,
) {
    let device = device.clone().autodiff();
    let run = |f: &dyn Fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Outputs| {
        let [x, residual] = [1, 3].map(|seed| leaf(seed, shape, &device));
        let weight = leaf(2, [shape[2]], &device);
        let (sum, y) = f(x.clone(), residual.clone(), weight.clone());
        let grads = loss_of(used, (sum.clone(), y.clone())).backward();
        (
            [sum, y],
            [x.grad(&grads).unwrap(), residual.grad(&grads).unwrap()],
            weight.grad(&grads),
        )
    };
    let (outputs, grads, dweight) = run(&fused);
    let (expected_outputs, expected_grads, expected_dweight) = run(&reference);
    let names = ["sum", "y"].into_iter().zip(outputs).zip(expected_outputs);
    for ((name, actual), expected) in names {
        assert_close(name, actual, expected);
    }
    let names = ["dx", "dresidual"].into_iter().zip(grads);
    for ((name, actual), expected) in names.zip(expected_grads) {
        assert_close(name, actual, expected);
    }
    match (dweight, expected_dweight) {
        (Some(actual), Some(expected)) => assert_close("dweight", actual, expected),
        (None, None) => assert!(matches!(used, Used::Sum)),
        (actual, expected) => panic!("{used:?}: dweight {actual:?}, expected {expected:?}"),
    }
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        for used in [Used::Both, Used::Sum, Used::Normalized, Used::Branch] {
            check([1, 1, 3], used, &device);
            check([2, 5, 33], used, &device);
            check([4, 65, 576], used, &device);
        }
    }
}

/// Two in a row, as in a model: the first one's sum is the second one's residual.
#[test]
fn a_stream_of_them_equals_the_composed_form() {
    for device in devices() {
        let device = device.autodiff();
        let run = |f: &dyn Fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Outputs| {
            let x = leaf(1, [2, 70, 64], &device);
            let weight = leaf(2, [64], &device);
            let (mut stream, mut branch) = (x.clone(), (x.clone() * 3.0).tanh());
            for _ in 0..3 {
                let (sum, y) = f(branch, stream, weight.clone());
                (stream, branch) = (sum, (y * 0.7).tanh());
            }
            let grads = loss(stream + branch).backward();
            (x.grad(&grads).unwrap(), weight.grad(&grads).unwrap())
        };
        let (dx, dweight) = run(&fused);
        let (expected, expected_weight) = run(&reference);
        assert_close("dx", dx, expected);
        assert_close("dweight", dweight, expected_weight);
    }
}

#[test]
fn without_an_addend_it_is_the_norm_beside_its_operand() {
    for device in devices() {
        let device = device.autodiff();
        for used in [Used::Both, Used::Normalized, Used::Branch] {
            let x = leaf(1, [2, 70, 64], &device);
            let weight = leaf(2, [64], &device);
            let (same, y) = residual_rms_norm(x.clone(), weight.clone(), CONFIG);
            assert_eq!(values(same.clone()), values(x.clone()));
            let grads = loss_of(used, (same, y.clone())).backward();

            let zero = Tensor::zeros([2, 70, 64], &device);
            let expected = reference(x.clone(), zero, weight.clone());
            assert_close("y", y, expected.1.clone());
            let expected = loss_of(used, expected).backward();
            let (dx, dweight) = (x.grad(&grads).unwrap(), weight.grad(&grads).unwrap());
            assert_close("dx", dx, x.grad(&expected).unwrap());
            assert_close("dweight", dweight, weight.grad(&expected).unwrap());
        }
    }
}

#[test]
fn each_operand_may_be_frozen() {
    for device in devices() {
        let device = device.autodiff();
        for tracked in 0..3 {
            let operand = |seed| {
                if seed == tracked {
                    leaf(seed as u64, [2, 9, 33], &device)
                } else {
                    tensor(seed as u64, [2, 9, 33], &device)
                }
            };
            let (x, residual) = (operand(0), operand(1));
            let weight = tensor::<1>(2, [33], &device);
            let weight = match tracked {
                2 => weight.require_grad(),
                _ => weight,
            };
            let run = |f: &dyn Fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Outputs| {
                let outputs = f(x.clone(), residual.clone(), weight.clone());
                let grads = loss_of(Used::Both, outputs).backward();
                (x.grad(&grads), residual.grad(&grads), weight.grad(&grads))
            };
            let (actual, expected) = (run(&fused), run(&reference));
            assert_eq!(actual.0.is_some(), tracked == 0);
            assert_eq!(actual.1.is_some(), tracked == 1);
            assert_eq!(actual.2.is_some(), tracked == 2);
            for (actual, expected) in [(actual.0, expected.0), (actual.1, expected.1)] {
                if let (Some(actual), Some(expected)) = (actual, expected) {
                    assert_close("gradient", actual, expected);
                }
            }
            if let (Some(actual), Some(expected)) = (actual.2, expected.2) {
                assert_close("dweight", actual, expected);
            }
        }
    }
}

#[test]
fn the_operands_are_not_written_to() {
    for device in devices() {
        let device = device.autodiff();
        let [x, residual] = [1, 2].map(|seed| leaf(seed, [2, 70, 64], &device));
        let weight = tensor(3, [64], &device);
        let (sum, y) = add_rms_norm(x.clone(), residual.clone(), weight, CONFIG);
        let kept = values(sum.clone());
        let grads = loss_of(Used::Both, (sum.clone(), y)).backward();
        drop(grads);
        assert_eq!(values(sum), kept);
        for (seed, operand) in [(1, x), (2, residual)] {
            let expected: Tensor<3> = tensor(seed, [2, 70, 64], &device);
            assert_eq!(values(operand), values(expected));
        }
    }
}

#[test]
fn views_work_without_autodiff() {
    for device in devices() {
        let x = tensor::<3>(1, [2, 33, 33], &device).swap_dims(1, 2);
        let residual = tensor::<3>(2, [2, 40, 33], &device).narrow(1, 3, 33);
        let weight = tensor(3, [33], &device);
        let actual = fused(x.clone(), residual.clone(), weight.clone());
        let expected = reference(x, residual, weight);
        assert_close("sum", actual.0, expected.0);
        assert_close("y", actual.1, expected.1);
    }
}

#[test]
#[should_panic(expected = "add_rms_norm: x and residual must have one shape and dtype")]
fn a_residual_of_another_shape_is_refused() {
    let device = devices().remove(0);
    let (x, residual) = (tensor(1, [1, 2, 4], &device), tensor(1, [1, 1, 4], &device));
    fused(x, residual, tensor(2, [4], &device));
}
