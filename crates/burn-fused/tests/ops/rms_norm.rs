use burn_core::tensor::{DType, Device, Tensor};
use burn_fused::{RmsNormConfig, rms_norm};

use crate::common::{assert_close, devices, is_flex, leaf, loss, tensor};

const EPS: f64 = 1e-5;
const CONFIG: RmsNormConfig = RmsNormConfig::new(EPS);

fn reference<const D: usize>(x: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
    let mean = x.clone().square().mean_dim(D - 1);
    x / (mean + EPS).sqrt() * weight.unsqueeze()
}

fn check<const D: usize>(shape: [usize; D], device: &Device) {
    let device = device.clone().autodiff();
    for unit_offset in [false, true] {
        let run = |f: &dyn Fn(Tensor<D>, Tensor<1>) -> Tensor<D>| {
            let x = leaf(1, shape, &device);
            let weight = leaf(2, [shape[D - 1]], &device);
            let y = f(x.clone(), weight.clone());
            let grads = loss(y.clone()).backward();
            (y, x.grad(&grads).unwrap(), weight.grad(&grads).unwrap())
        };
        let actual = run(&|x, w| rms_norm(x, w, CONFIG.with_unit_offset(unit_offset)));
        let expected = run(&|x, w| reference(x, if unit_offset { w + 1.0 } else { w }));
        assert_close("y", actual.0, expected.0);
        assert_close("dx", actual.1, expected.1);
        assert_close("dweight", actual.2, expected.2);
    }
}

#[test]
fn equals_the_composed_form() {
    for device in devices() {
        check([1, 3], &device);
        check([3, 7], &device);
        check([2, 5, 33], &device);
        check([1, 1, 576], &device);
        check([4, 65, 576], &device);
        check([2, 3, 4, 100], &device);
    }
}

/// In bf16 the factor `1 + 2⁻⁹` would be 1.
#[test]
fn the_unit_is_added_in_f32() {
    for device in devices() {
        if !device.supports_dtype(DType::BF16) {
            continue;
        }
        let x = tensor::<2>(1, [6, 33], &device);
        let small = Tensor::<1>::full([33], 2f32.powi(-9), &device);
        let weight = small.clone().cast(DType::BF16);
        let actual = rms_norm(x.clone(), weight, CONFIG.with_unit_offset(true));
        assert_close("y", actual, reference(x, small + 1.0));
    }
}

#[test]
fn a_frozen_weight_gets_no_gradient_and_x_its_own() {
    for device in devices() {
        let device = device.autodiff();
        let weight = tensor(2, [33], &device);
        let x = leaf(1, [6, 33], &device);
        let grads = loss(rms_norm(x.clone(), weight.clone(), CONFIG)).backward();
        assert!(weight.grad(&grads).is_none());

        let y = leaf(1, [6, 33], &device);
        let expected = loss(reference(y.clone(), weight)).backward();
        assert_close("dx", x.grad(&grads).unwrap(), y.grad(&expected).unwrap());
    }
}

#[test]
fn a_tracked_weight_gets_one_when_x_has_none() {
    for device in devices() {
        let device = device.autodiff();
        let x = tensor(1, [70, 33], &device);
        let run = |f: &dyn Fn(Tensor<2>, Tensor<1>) -> Tensor<2>| {
            let weight = leaf(2, [33], &device);
            let grads = loss(f(x.clone(), weight.clone())).backward();
            weight.grad(&grads).unwrap()
        };
        let actual = run(&|x, w| rms_norm(x, w, CONFIG));
        assert_close("dweight", actual, run(&reference));
    }
}

#[test]
fn works_without_autodiff_and_on_views() {
    for device in devices() {
        let x = tensor(1, [6, 33], &device);
        let weight = tensor(2, [33], &device);
        let expected = reference(x.clone(), weight.clone());
        let actual = rms_norm(x.clone(), weight.clone(), CONFIG);
        assert_close("y", actual, expected.clone());

        let rows = rms_norm(x.clone().narrow(0, 2, 3), weight.clone(), CONFIG);
        assert_close("rows", rows, expected.narrow(0, 2, 3));
        let square = tensor::<2>(3, [33, 33], &device);
        let actual = rms_norm(square.clone().transpose(), weight.clone(), CONFIG);
        assert_close("transposed", actual, reference(square.transpose(), weight));
    }
}

#[test]
fn no_rows_make_no_rows() {
    for device in devices() {
        if is_flex(&device) {
            let x = Tensor::<2>::zeros([0, 8], &device);
            let y = rms_norm(x, Tensor::ones([8], &device), CONFIG);
            assert_eq!(y.dims(), [0, 8]);
        }
    }
}

#[test]
#[should_panic(expected = "rms_norm: weight has 3 elements")]
fn a_weight_of_another_length_is_refused() {
    let device = devices().remove(0);
    rms_norm(tensor(1, [2, 4], &device), tensor(2, [3], &device), CONFIG);
}
