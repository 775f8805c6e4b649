use burn_core::tensor::{Device, Tensor, activation::silu};
use burn_fused::swiglu;

use crate::common::{assert_close, devices, leaf, loss, tensor};

fn reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

fn check<const D: usize>(shape: [usize; D], gain: f64, device: &Device) {
    let device = device.clone().autodiff();
    let run = |f: &dyn Fn(Tensor<D>, Tensor<D>) -> Tensor<D>| {
        let gate = (tensor(1, shape, &device) * gain).require_grad();
        let up = leaf(2, shape, &device);
        let y = f(gate.clone(), up.clone());
        let grads = loss(y.clone()).backward();
        (y, gate.grad(&grads).unwrap(), up.grad(&grads).unwrap())
    };
    let actual = run(&swiglu);
    let expected = run(&reference);
    assert_close("y", actual.0, expected.0);
    assert_close("dgate", actual.1, expected.1);
    assert_close("dup", actual.2, expected.2);
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
fn each_operand_may_be_frozen() {
    for device in devices() {
        let device = device.autodiff();
        let frozen = tensor(1, [9, 40], &device);
        let tracked = leaf(2, [9, 40], &device);
        let grads = loss(swiglu(frozen.clone(), tracked.clone())).backward();
        let dup = tracked.grad(&grads).unwrap();
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
        let (gate, up) = (leaf(1, [8, 16], &device), leaf(2, [8, 16], &device));
        let grads = loss(swiglu(gate.clone(), up.clone())).backward();
        drop(grads);
        assert_close("gate", gate, tensor(1, [8, 16], &device));
        assert_close("up", up, tensor(2, [8, 16], &device));
    }
}
