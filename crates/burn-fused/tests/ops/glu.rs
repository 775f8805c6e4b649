use burn_core::tensor::{Device, Tensor, activation::silu};
use burn_fused::{Activation, geglu, glu, swiglu};

use crate::common::{assert_close, devices, leaf, loss, tensor};

const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

fn reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    let activated = match activation {
        Activation::Silu => silu(gate),
        Activation::GeluTanh => {
            let cube = gate.clone() * gate.clone() * gate.clone();
            let inner = (gate.clone() + cube * 0.044715) * (2.0 / core::f64::consts::PI).sqrt();
            gate * 0.5 * (inner.tanh() + 1.0)
        }
    };
    activated * up
}

/// Compares with the composed form on the first device: `tanh` of large numbers is NaN on some.
fn check<const D: usize>(shape: [usize; D], gain: f64, device: &Device) {
    for activation in ACTIVATIONS {
        let run = |fused: bool, device: &Device| {
            let device = device.clone().autodiff();
            let gate = (tensor(1, shape, &device) * gain).require_grad();
            let up = leaf(2, shape, &device);
            let y = match fused {
                true => glu(gate.clone(), up.clone(), activation),
                false => reference(gate.clone(), up.clone(), activation),
            };
            let grads = loss(y.clone()).backward();
            (y, gate.grad(&grads).unwrap(), up.grad(&grads).unwrap())
        };
        let actual = run(true, device);
        let expected = run(false, &devices().remove(0));
        assert_close(&format!("{activation:?}"), actual.0, expected.0);
        assert_close(&format!("dgate of {activation:?}"), actual.1, expected.1);
        assert_close(&format!("dup of {activation:?}"), actual.2, expected.2);
    }
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        check([1], 1.0, &device);
        check([5, 33], 4.0, &device);
        check([2, 3, 100], 10.0, &device);
        check([70, 1536], 4.0, &device);
    }
}

#[test]
fn a_saturated_gate_stays_finite() {
    for device in devices() {
        check([4, 50], 200.0, &device);
    }
}

#[test]
fn the_named_ones_are_their_activations() {
    for device in devices() {
        let [gate, up] = [1, 2].map(|seed| tensor::<2>(seed, [5, 33], &device));
        let run = |activation| reference(gate.clone(), up.clone(), activation);
        let actual = swiglu(gate.clone(), up.clone());
        assert_close("swiglu", actual, run(Activation::Silu));
        let actual = geglu(gate.clone(), up.clone());
        assert_close("geglu", actual, run(Activation::GeluTanh));
    }
}

#[test]
fn each_operand_may_be_frozen() {
    for device in devices() {
        let device = device.autodiff();
        let frozen = tensor(1, [9, 40], &device);
        let tracked = leaf(2, [9, 40], &device);
        let grads = loss(swiglu(frozen.clone(), tracked.clone())).backward();
        let dup = tracked.grad(&grads).unwrap();
        let reference = |gate, up| reference(gate, up, Activation::Silu);
        let grads = loss(reference(frozen.clone(), tracked.clone())).backward();
        assert_close("dup", dup, tracked.grad(&grads).unwrap());

        let grads = loss(swiglu(tracked.clone(), frozen.clone())).backward();
        let dgate = tracked.grad(&grads).unwrap();
        let grads = loss(reference(tracked.clone(), frozen.clone())).backward();
        assert_close("dgate", dgate, tracked.grad(&grads).unwrap());
        assert!(frozen.grad(&grads).is_none());
    }
}

#[test]
fn the_operands_are_not_written_to() {
    for device in devices() {
        let device = device.autodiff();
        for activation in ACTIVATIONS {
            let (gate, up) = (leaf(1, [8, 16], &device), leaf(2, [8, 16], &device));
            let grads = loss(glu(gate.clone(), up.clone(), activation)).backward();
            drop(grads);
            assert_close("gate", gate, tensor(1, [8, 16], &device));
            assert_close("up", up, tensor(2, [8, 16], &device));
        }
    }
}

#[test]
#[should_panic(expected = "glu: gate and up must have one shape")]
fn shapes_that_differ_are_refused() {
    let device = devices().remove(0);
    geglu::<2>(tensor(1, [2, 3], &device), tensor(2, [2, 4], &device));
}
