//! Memory of the device and pinned memory of the host.

use crate::driver::order::{Access, Handle};
use crate::driver::state::{StreamEntry, state};
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

/// The stream of calls that name none.
const NO_STREAM: Handle = 0;

/// Where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
    Within,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::In => "to the device",
            Self::Out => "from the device",
            Self::Within => "within the device",
        }
    }
}

/// Copies `rows` stretches of `bytes`, whose places `row` gives, within this process, where the device's memory lies too.
///
/// # Safety
/// Host memory must be valid for the copy.
unsafe fn copy_rows(
    stream: Handle,
    way: Way,
    bytes: usize,
    rows: usize,
    row: impl Fn(usize) -> (u64, u64),
) -> Status {
    let mut state = state();
    if let Some(failed) = state.failed {
        return failed;
    }
    let mut used = Vec::new();
    for (to, from) in (0..rows).map(row) {
        // The host's side is not watched: who reuses it waits for the stream.
        let sides = [
            (way != Way::In).then_some((from, bytes as u64, Access::Read)),
            (way != Way::Out).then_some((to, bytes as u64, Access::Write)),
        ];
        for (side, _, _) in sides.iter().flatten() {
            if let Err(status) = state.check(*side, bytes) {
                return status;
            }
        }
        // SAFETY: the device's sides were checked, the host's are the caller's promise; no kernel runs while the state is locked.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        used.extend(sides.into_iter().flatten());
    }
    let entry = StreamEntry {
        stream,
        operation: way.name(),
        kernel: None,
        bytes: (rows * bytes) as u64,
    };
    done(state.queue(&entry, used))
}

/// Copies bytes.
///
/// # Safety
/// Host memory must be valid for the copy.
unsafe fn copy(stream: Handle, way: Way, to: u64, from: u64, bytes: usize) -> Status {
    // SAFETY: the caller promises it.
    unsafe { copy_rows(stream, way, bytes, 1, |_| (to, from)) }
}

/// Copies bytes, and waits for it.
///
/// # Safety
/// Host memory must be valid for the copy.
unsafe fn copy_now(way: Way, to: u64, from: u64, bytes: usize) -> Status {
    // SAFETY: the caller promises it.
    let status = unsafe { copy(NO_STREAM, way, to, from, bytes) };
    state().order.host_waits(NO_STREAM);
    status
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
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: Handle) {
        give(address, state().allocate(bytes as u64))
    }

    /// Frees memory of the device.
    fn cuMemFree_v2(address: u64) {
        done(state().free(address))
    }

    /// Frees memory of the device.
    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let mut state = state();
        // Whatever touches it must come before.
        let bytes = state.size_of(address).unwrap_or(0);
        let entry = StreamEntry { stream, operation: "free", kernel: None, bytes };
        let queued = state.queue(&entry, [(address, bytes, Access::Write)]);
        done(queued.and_then(|()| state.free(address)))
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
        copy_now(Way::In, to, from, bytes)
    }

    /// Copies to the device.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy(stream, Way::In, to, from, bytes)
    }

    /// Copies from the device.
    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        copy_now(Way::Out, to, from, bytes)
    }

    /// Copies from the device.
    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy(stream, Way::Out, to, from, bytes)
    }

    /// Copies within the device.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy(stream, Way::Within, to, from, bytes)
    }

    /// Copies rows.
    fn cuMemcpy2DAsync_v2(rows: *const Copy2D, stream: Handle) {
        let Some(Copy2D { source, destination, width, height }) = rows.as_ref() else {
            return status::INVALID_VALUE;
        };
        let way = match (source.is_device(), destination.is_device()) {
            (false, true) => Way::In,
            (true, false) => Way::Out,
            (true, true) => Way::Within,
            (false, false) => return status::INVALID_VALUE,
        };
        let row = |row| (destination.row(row), source.row(row));
        copy_rows(stream, way, *width, *height, row)
    }

    /// Sets bytes of the device.
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: Handle) {
        let mut state = state();
        if let Err(status) = state.check(to, bytes) {
            return status;
        }
        std::ptr::write_bytes(to as *mut u8, value, bytes);
        let bytes = bytes as u64;
        let entry = StreamEntry { stream, operation: "set", kernel: None, bytes };
        done(state.queue(&entry, [(to, bytes, Access::Write)]))
    }
}
