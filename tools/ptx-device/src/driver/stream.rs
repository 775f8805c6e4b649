//! Streams, events and contexts, of which there is no need: every call is carried out before it returns.

use crate::driver::state::state;
use crate::driver::{Status, export, put, status};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A handle that stands for nothing but itself.
type Handle = usize;

const CONTEXT: Handle = 16;

/// Gives a handle that no other has.
///
/// # Safety
/// `to` must be null or valid for a write.
unsafe fn give_new(to: *mut Handle) -> Status {
    static NEXT: AtomicUsize = AtomicUsize::new(32);
    // SAFETY: the caller promises it.
    unsafe { put(to, NEXT.fetch_add(16, Ordering::Relaxed)) }
}

fn waited() -> Status {
    state().failed.unwrap_or(status::SUCCESS)
}

export! {
    /// Gives the device's context.
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) {
        put(context, CONTEXT)
    }

    /// Does nothing.
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) {
        status::SUCCESS
    }

    /// Gives the device's context.
    fn cuCtxGetCurrent(context: *mut Handle) {
        put(context, CONTEXT)
    }

    /// Does nothing: there is one context.
    fn cuCtxSetCurrent(_context: Handle) {
        status::SUCCESS
    }

    /// Does nothing: there is one context.
    fn cuCtxPushCurrent_v2(_context: Handle) {
        status::SUCCESS
    }

    /// Gives the device.
    fn cuCtxGetDevice(device: *mut c_int) {
        put(device, 0)
    }

    /// Gives the range of streams' priorities, which has one.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        put(least, 0);
        put(greatest, 0)
    }

    /// Tells whether a kernel has failed.
    fn cuCtxSynchronize() {
        waited()
    }

    /// Makes a stream.
    fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) {
        give_new(stream)
    }

    /// Makes a stream.
    fn cuStreamCreateWithPriority(stream: *mut Handle, _flags: c_uint, _priority: c_int) {
        give_new(stream)
    }

    /// Does nothing.
    fn cuStreamDestroy_v2(_stream: Handle) {
        status::SUCCESS
    }

    /// Tells whether a kernel has failed.
    fn cuStreamSynchronize(_stream: Handle) {
        waited()
    }

    /// Tells whether a kernel has failed.
    fn cuStreamQuery(_stream: Handle) {
        waited()
    }

    /// Does nothing: what was recorded is done.
    fn cuStreamWaitEvent(_stream: Handle, _event: Handle, _flags: c_uint) {
        status::SUCCESS
    }

    /// Makes an event.
    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        give_new(event)
    }

    /// Does nothing.
    fn cuEventDestroy_v2(_event: Handle) {
        status::SUCCESS
    }

    /// Does nothing: what comes before is done.
    fn cuEventRecord(_event: Handle, _stream: Handle) {
        status::SUCCESS
    }

    /// Tells whether a kernel has failed.
    fn cuEventSynchronize(_event: Handle) {
        waited()
    }

    /// Tells whether a kernel has failed.
    fn cuEventQuery(_event: Handle) {
        waited()
    }

    /// Gives a millisecond, for want of a model of time.
    fn cuEventElapsedTime(milliseconds: *mut f32, _begin: Handle, _end: Handle) {
        put(milliseconds, 1.0)
    }

    /// Gives a millisecond, for want of a model of time.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, _begin: Handle, _end: Handle) {
        put(milliseconds, 1.0)
    }

    /// Gives a result's name.
    fn cuGetErrorName(result: c_int, name: *mut *const c_char) {
        put(name, error_name(result))
    }

    /// Gives a result's name.
    fn cuGetErrorString(result: c_int, name: *mut *const c_char) {
        put(name, error_name(result))
    }

    /// Does nothing.
    fn cuProfilerStart() {
        status::SUCCESS
    }

    /// Does nothing.
    fn cuProfilerStop() {
        status::SUCCESS
    }
}

fn error_name(result: c_int) -> *const c_char {
    match result {
        status::SUCCESS => c"CUDA_SUCCESS",
        status::INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        status::OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        status::INVALID_PTX => c"CUDA_ERROR_INVALID_PTX (ptx-device has said why)",
        status::NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        _ => c"CUDA_ERROR_LAUNCH_FAILED (ptx-device has said why)",
    }
    .as_ptr()
}
