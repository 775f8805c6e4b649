use burn_core::tensor::{Device, Tensor};
use burn_operands::UnservedDevice;

/// The check, by the features of this crate.
mod features {
    burn_operands::served_devices! {
        Autodiff: "autodiff",
        Cube: "cubecl-backend",
        Flex: "flex",
        NdArray: "ndarray",
        LibTorch: "tch",
        // Fusion sends operations of its own, which no server has.
        Remote: "remote" without "fusion",
        Capture: "capture",
    }
}

/// Checks that this build of the crate has the operations for a device.
///
/// # Errors
/// [`UnservedDevice`], which names the feature to turn on.
pub fn check_device(device: &Device) -> Result<(), UnservedDevice> {
    features::check_device(device)
}

/// Refuses a tensor on a device that this build of the crate does not serve, as the dispatch would without a reason.
///
/// # Panics
/// With the operation's name and the feature to turn on.
#[track_caller]
pub(crate) fn expect_served<const D: usize>(operation: &str, tensor: &Tensor<D>) {
    if let Err(error) = check_device(&tensor.device()) {
        panic!("{operation}: {error}");
    }
}
