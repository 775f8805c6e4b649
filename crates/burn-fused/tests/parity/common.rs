//! Devices, inputs and the measure of equality.

use burn_core::tensor::{Device, Tensor, TensorData};

/// The devices under test, by feature.
pub fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "wgpu")]
        Device::wgpu(burn_core::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cpu")]
        Device::cpu(),
    ]
}

/// Whether this is the CPU backend, with or without autodiff.
pub fn is_flex(device: &Device) -> bool {
    format!("{device:?}").contains("Flex")
}

/// Numbers in (-1, 1) that depend on `seed` alone (a 64-bit linear congruential generator).
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A tensor of [`numbers`].
pub fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let len = shape.iter().product();
    Tensor::from_data(TensorData::new(numbers(seed, len), shape), device)
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
    let actual = values(actual);
    let expected = values(expected);
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    // Where all of it is 0, values of order 1 have cancelled, which leaves their rounding.
    let floor = if scale == 0.0 { 1e-2 } else { 1e-3 };
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        // Not `>`, so that NaN fails.
        let close = (a - e).abs() <= tolerance * scale.max(floor);
        assert!(close, "{name}[{i}]: {a} is not {e} (largest {scale})");
    }
}

/// [`assert_close_within`] what reordering f32 arithmetic makes.
#[track_caller]
pub fn assert_close<const D: usize>(name: &str, actual: Tensor<D>, expected: Tensor<D>) {
    assert_close_within(name, actual, expected, TOLERANCE);
}

/// The values as f32.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
