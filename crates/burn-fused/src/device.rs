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

/// Returns whether operations on a device are kernels of the CPU on values in this process's memory: those of Flex without
/// autodiff.
pub fn runs_cpu_kernels(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "flex")]
        burn_core::backend::DispatchDevice::Flex(_) => true,
        _ => false,
    }
}

/// Runs `f`, which calls many short operations on `device` one after another, where they are called best, and returns what it
/// returns: on one of the threads that the CPU's kernels run on, so that a call need not change threads, or for other devices on
/// the calling thread, which their streams may belong to.
pub fn on_kernel_thread<R: Send>(device: &Device, f: impl FnOnce() -> R + Send) -> R {
    if runs_cpu_kernels(device) {
        return qlora_cpu::on_worker(f);
    }
    f()
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
