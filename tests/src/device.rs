//! The devices compiled in.

use burn::tensor::Device;

/// A device and the accuracy the training curve is held to on it.
pub struct TestDevice {
    /// What the command line calls it.
    pub name: &'static str,
    /// The device, without autodiff.
    pub device: Device,
    /// Largest relative error of a loss of the recorded curve. Flex sums in another order than
    /// torch but in f32 throughout; software Vulkan may contract and approximate.
    pub loss_tolerance: f64,
}

/// Every device that the features of this crate compile in.
pub fn all() -> Vec<TestDevice> {
    vec![
        #[cfg(feature = "flex")]
        TestDevice {
            name: "flex",
            device: Device::flex(),
            loss_tolerance: 5e-5,
        },
        #[cfg(feature = "wgpu")]
        TestDevice {
            name: "wgpu",
            device: Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            loss_tolerance: 1e-3,
        },
    ]
}
