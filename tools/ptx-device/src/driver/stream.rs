//! Streams, events and contexts. Every call is carried out before it returns; what order they give is kept by
//! [`order`](super::order).

use crate::driver::order::{Handle, Order};
use crate::driver::state::state;
use crate::driver::{Status, export, put, status};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The context, which stands for nothing but itself.
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

/// Lets the host wait, and tells whether a kernel has failed.
fn waited(wait: impl FnOnce(&mut Order)) -> Status {
    let mut state = state();
    wait(&mut state.order);
    state.failed.unwrap_or(status::SUCCESS)
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
        waited(Order::host_waits_for_all)
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
    fn cuStreamSynchronize(stream: Handle) {
        waited(|order| order.host_waits(stream))
    }

    /// Tells whether a kernel has failed.
    fn cuStreamQuery(stream: Handle) {
        waited(|order| order.host_waits(stream))
    }

    /// Puts what the stream is given from now on after the event.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) {
        state().order.wait(stream, event);
        status::SUCCESS
    }

    /// Makes an event.
    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        give_new(event)
    }

    /// Forgets an event.
    fn cuEventDestroy_v2(event: Handle) {
        state().order.destroy_event(event);
        status::SUCCESS
    }

    /// Puts the event after what the stream was given so far.
    fn cuEventRecord(event: Handle, stream: Handle) {
        state().order.record(event, stream);
        status::SUCCESS
    }

    /// Tells whether a kernel has failed.
    fn cuEventSynchronize(event: Handle) {
        waited(|order| order.host_waits_for(event))
    }

    /// Tells whether a kernel has failed.
    fn cuEventQuery(event: Handle) {
        waited(|order| order.host_waits_for(event))
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
