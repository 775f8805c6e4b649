//! The driver's interface: what `libcuda.so` exports, as far as CubeCL's CUDA runtime calls it. What it does not have, the loader
//! misses by name.
//!
//! Calls are carried out at once and one after the other, which is one of the orders that streams and events allow; what is used in
//! another order than they say is found all the same. After a kernel has failed, as on a device, every later call that waits fails too.

/// What the device is.
mod device;
/// Memory of the device and pinned memory of the host.
mod memory;
/// Modules and their kernels.
mod module;
/// What streams and events put in order.
mod order;
/// The state of the device.
mod state;
/// Streams, events and contexts.
mod stream;

use std::ffi::c_int;

/// A driver call's result, one of `CUresult`.
pub type Status = c_int;

/// The results that this device gives.
pub mod status {
    use super::Status;

    /// `CUDA_SUCCESS`
    pub const SUCCESS: Status = 0;
    /// `CUDA_ERROR_INVALID_VALUE`
    pub const INVALID_VALUE: Status = 1;
    /// `CUDA_ERROR_OUT_OF_MEMORY`
    pub const OUT_OF_MEMORY: Status = 2;
    /// `CUDA_ERROR_INVALID_PTX`
    pub const INVALID_PTX: Status = 218;
    /// `CUDA_ERROR_NOT_FOUND`
    pub const NOT_FOUND: Status = 500;
    /// `CUDA_ERROR_LAUNCH_FAILED`
    pub const LAUNCH_FAILED: Status = 719;
}

/// Writes a result where a caller wants it.
///
/// # Safety
/// `to` must be null or valid for a write.
unsafe fn put<T>(to: *mut T, value: T) -> Status {
    if to.is_null() {
        return status::INVALID_VALUE;
    }
    // SAFETY: it is not null, and the caller promises the rest.
    unsafe { to.write(value) };
    status::SUCCESS
}

/// Exports functions of the driver's interface, each with the body given.
macro_rules! export {
    ($($(#[doc = $doc:literal])+ fn $name:ident($($argument:ident: $ty:ty),* $(,)?) $body:block)+) => {$(
        $(#[doc = $doc])+
        ///
        /// # Safety
        /// Pointers and handles must be what the CUDA driver API asks for.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, reason = "the driver's name")]
        #[allow(unused_unsafe, reason = "some bodies do nothing that needs it")]
        pub unsafe extern "C" fn $name($($argument: $ty),*) -> $crate::driver::Status {
            // SAFETY: the caller keeps to the driver API, as the function asks.
            unsafe { $body }
        }
    )+};
}

use export;
