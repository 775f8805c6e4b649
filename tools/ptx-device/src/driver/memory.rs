//! Memory of the device and pinned memory of the host.

use crate::driver::state::state;
use crate::driver::{Status, export, put, status};
use std::ffi::{c_uint, c_void};

/// Gives the address that an allocation has, or its failure.
///
/// # Safety
/// `to` must be null or valid for a write.
unsafe fn give(to: *mut u64, address: Result<u64, Status>) -> Status {
    match address {
        // SAFETY: the caller promises it.
        Ok(address) => unsafe { put(to, address) },
        Err(status) => status,
    }
}

fn done(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(status::SUCCESS)
}

/// Copies within this process, where the device's memory lies too. `device` are the sides that are the device's.
///
/// # Safety
/// Host memory must be valid for the copy.
unsafe fn copy(to: u64, from: u64, bytes: usize, device: &[u64]) -> Status {
    let state = state();
    if let Some(failed) = state.failed {
        return failed;
    }
    for side in device {
        if let Err(status) = state.check(*side, bytes) {
            return status;
        }
    }
    // SAFETY: the device's sides were checked, the host's are the caller's promise; no kernel runs while the state is locked.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    status::SUCCESS
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Debug)]
pub struct Copy2D {
    source: Side,
    destination: Side,
    width: usize,
    height: usize,
}

/// One side of a [`Copy2D`].
#[repr(C)]
#[derive(Debug)]
struct Side {
    x: usize,
    y: usize,
    /// 1: the host's memory, 2: the device's.
    kind: c_uint,
    host: u64,
    device: u64,
    array: *mut c_void,
    pitch: usize,
}

impl Side {
    fn row(&self, row: usize) -> u64 {
        let base = if self.is_device() {
            self.device
        } else {
            self.host
        };
        base + ((self.y + row) * self.pitch + self.x) as u64
    }

    fn is_device(&self) -> bool {
        self.kind != 1
    }
}

export! {
    /// Allocates memory of the device.
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        give(address, state().allocate(bytes as u64))
    }

    /// Allocates memory of the device.
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: *mut c_void) {
        give(address, state().allocate(bytes as u64))
    }

    /// Frees memory of the device.
    fn cuMemFree_v2(address: u64) {
        done(state().free(address))
    }

    /// Frees memory of the device.
    fn cuMemFreeAsync(address: u64, _stream: *mut c_void) {
        done(state().free(address))
    }

    /// Allocates pinned memory.
    fn cuMemAllocHost_v2(address: *mut u64, bytes: usize) {
        give(address, state().pin(bytes as u64))
    }

    /// Allocates pinned memory.
    fn cuMemHostAlloc(address: *mut u64, bytes: usize, _flags: c_uint) {
        give(address, state().pin(bytes as u64))
    }

    /// Frees pinned memory.
    fn cuMemFreeHost(address: u64) {
        done(state().unpin(address))
    }

    /// Does nothing: all memory of the host can be copied from.
    fn cuMemHostRegister_v2(_address: *mut c_void, _bytes: usize, _flags: c_uint) {
        status::SUCCESS
    }

    /// Does nothing.
    fn cuMemHostUnregister(_address: *mut c_void) {
        status::SUCCESS
    }

    /// Copies to the device.
    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        copy(to, from, bytes, &[to])
    }

    /// Copies to the device.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: *mut c_void) {
        copy(to, from, bytes, &[to])
    }

    /// Copies from the device.
    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        copy(to, from, bytes, &[from])
    }

    /// Copies from the device.
    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, _stream: *mut c_void) {
        copy(to, from, bytes, &[from])
    }

    /// Copies within the device.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: *mut c_void) {
        copy(to, from, bytes, &[to, from])
    }

    /// Copies rows.
    fn cuMemcpy2DAsync_v2(rows: *const Copy2D, _stream: *mut c_void) {
        let Some(Copy2D { source, destination, width, height }) = rows.as_ref() else {
            return status::INVALID_VALUE;
        };
        for row in 0..*height {
            let (to, from) = (destination.row(row), source.row(row));
            let sides = [(destination, to), (source, from)];
            let device: Vec<u64> = sides
                .into_iter()
                .filter(|(side, _)| side.is_device())
                .map(|(_, address)| address)
                .collect();
            let status = copy(to, from, *width, &device);
            if status != status::SUCCESS {
                return status;
            }
        }
        status::SUCCESS
    }

    /// Sets bytes of the device.
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: *mut c_void) {
        let state = state();
        if let Err(status) = state.check(to, bytes) {
            return status;
        }
        std::ptr::write_bytes(to as *mut u8, value, bytes);
        status::SUCCESS
    }
}
