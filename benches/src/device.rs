//! The devices that are compiled in, by name.

use burn::tensor::Device;

/// Returns names and devices: flex, wgpu, cuda, and cpu for CubeCL's CPU runtime, each with the feature of that name.
pub fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "wgpu")]
        (
            "wgpu",
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        ),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
        #[cfg(feature = "cpu")]
        ("cpu", Device::cpu()),
    ]
}

/// Returns the device of that name.
///
/// # Errors
/// A sentence that says which devices there are.
pub fn device(name: &str) -> Result<Device, String> {
    let devices = devices();
    let names: Vec<&str> = devices.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    devices
        .into_iter()
        .find_map(|(known, device)| (known == name).then_some(device))
        .ok_or_else(|| format!("{name} is no device that was compiled in; there are {names}"))
}
