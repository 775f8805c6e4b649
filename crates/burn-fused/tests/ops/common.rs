//! Devices, inputs and the measure of equality.

use burn_core::tensor::{Device, Tensor};
use qlora_test_support::random::uniform;
use qlora_test_support::{assert_within, values};

/// The devices under test, by feature.
pub fn devices() -> Vec<Device> {
    let devices = qlora_test_support::devices!().into_iter();
    devices.map(|device| device.device).collect()
}

/// The devices that large operands are tried on: all but the software CUDA device.
pub fn fast_devices() -> Vec<Device> {
    let devices = qlora_test_support::devices!().into_iter();
    let fast = devices.filter(|device| !device.is_software_cuda());
    fast.map(|device| device.device).collect()
}

/// The devices that have kernels: on the others the default bodies run.
pub fn devices_with_kernels() -> Vec<Device> {
    let devices = qlora_test_support::devices!().into_iter();
    let with_kernels = devices.filter(|device| !["ndarray", "tch"].contains(&device.name));
    with_kernels.map(|device| device.device).collect()
}

/// Returns whether this is the CPU backend, with or without autodiff.
pub fn is_flex(device: &Device) -> bool {
    format!("{device:?}").contains("Flex")
}

/// A tensor of numbers in [-1, 1) that depend on `seed` alone.
pub fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let numbers = uniform(seed, shape.iter().product());
    qlora_test_support::tensor(numbers, shape, device)
}

/// A leaf whose gradient is asked for.
pub fn leaf<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor(seed, shape, device).require_grad()
}

/// The sum of `out` times fixed numbers: a loss whose gradient is different in every element.
pub fn loss<const D: usize>(out: Tensor<D>) -> Tensor<1> {
    let weights = tensor(99, out.dims(), &out.device());
    (out * weights).sum()
}

/// f32 arithmetic in another order, as a part of the largest value: measured 2e-7 to 3e-6 on Flex.
const TOLERANCE: f32 = 1e-5;

/// Asserts that no element is further from `expected` than `tolerance` times the largest of
/// `expected`.
#[track_caller]
pub fn assert_close_within<const D: usize>(
    name: &str,
    actual: Tensor<D>,
    expected: Tensor<D>,
    tolerance: f32,
) {
    assert_eq!(actual.dims(), expected.dims(), "{name}: shape");
    let (actual, expected) = (values(actual), values(expected));
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    // Where all of it is 0, values of order 1 have cancelled, which leaves their rounding.
    let floor = if scale == 0.0 { 1e-2 } else { 1e-3 };
    let limit = f64::from(tolerance * scale.max(floor));
    let reason = "f32 arithmetic in another order, and the rounding of the dtype";
    assert_within(name, &actual, &expected, reason, |_| limit);
}

/// [`assert_close_within`] what reordering f32 arithmetic makes.
#[track_caller]
pub fn assert_close<const D: usize>(name: &str, actual: Tensor<D>, expected: Tensor<D>) {
    assert_close_within(name, actual, expected, TOLERANCE);
}
