//! The devices compiled in.

use qlora_test_support::TestDevice;

/// Every device that the features of this crate compile in.
pub fn devices() -> Vec<TestDevice> {
    qlora_test_support::devices!()
}

/// The largest relative error of a loss of the recorded curve on a device. Flex and NdArray sum in another order than torch
/// but in f32 throughout; GPUs, and the software that stands for one, may contract and approximate.
pub fn loss_tolerance(device: &TestDevice) -> f64 {
    match device.name {
        "flex" | "ndarray" => 5e-5,
        _ => 1e-3,
    }
}
