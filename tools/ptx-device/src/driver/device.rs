//! What the device is.

use crate::driver::state::{memory_bytes, state};
use crate::driver::{Status, export, put, status};
use crate::settings::Settings;
use std::ffi::{c_char, c_int, c_uint};

/// The driver's version as the runtime asks for it: CUDA 13.0.
const VERSION: c_int = 13000;
const NAME: &[u8] = b"PTX device in software\0";
const BUS: &[u8] = b"0000:01:00.0\0";

/// Writes a text with its end, as much of it as there is room for.
///
/// # Safety
/// `to` must be valid for writes of `room` bytes.
unsafe fn put_text(to: *mut c_char, room: c_int, text: &[u8]) -> Status {
    for (place, byte) in text.iter().take(room.max(0) as usize).enumerate() {
        // SAFETY: the place lies within the caller's room.
        unsafe { to.add(place).write(byte.cast_signed()) };
    }
    status::SUCCESS
}

/// Returns a `CUdevice_attribute`, by its number; those that are not here are 0.
fn attribute(number: c_int) -> c_int {
    let capability = Settings::get().compute_capability;
    // Shared memory of a multiprocessor in KiB (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
    let shared_kib = match capability {
        80 => 164,
        90 => 228,
        _ => 100,
    };
    match number {
        // MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_X and _Y, _Z
        1..=3 => 1024,
        4 => 64,
        // MAX_GRID_DIM_X, _Y, _Z
        5 => c_int::MAX,
        6 | 7 => 65535,
        // MAX_SHARED_MEMORY_PER_BLOCK
        8 => 48 << 10,
        // TOTAL_CONSTANT_MEMORY
        9 => 64 << 10,
        // WARP_SIZE
        10 => 32,
        // MAX_REGISTERS_PER_BLOCK
        12 => 65536,
        // CLOCK_RATE
        13 => 1_400_000,
        // MULTIPROCESSOR_COUNT
        16 => 4,
        // MAX_THREADS_PER_MULTIPROCESSOR
        39 => 2048,
        // UNIFIED_ADDRESSING, MANAGED_MEMORY, MEMORY_POOLS_SUPPORTED
        41 | 83 | 115 => 1,
        // COMPUTE_CAPABILITY_MAJOR and _MINOR
        75 => capability / 10,
        76 => capability % 10,
        // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        81 => shared_kib << 10,
        // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        97 => (shared_kib - 1) << 10,
        _ => 0,
    }
}

export! {
    /// Does nothing: the device is there.
    fn cuInit(_flags: c_uint) {
        status::SUCCESS
    }

    /// Gives the driver's version.
    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, VERSION)
    }

    /// Gives one device.
    fn cuDeviceGetCount(count: *mut c_int) {
        put(count, 1)
    }

    /// Gives the device, which has the number 0.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if ordinal != 0 {
            return status::INVALID_VALUE;
        }
        put(device, 0)
    }

    /// Gives the device's name.
    fn cuDeviceGetName(name: *mut c_char, room: c_int, _device: c_int) {
        put_text(name, room, NAME)
    }

    /// Gives the device's place on the bus.
    fn cuDeviceGetPCIBusId(bus: *mut c_char, room: c_int, _device: c_int) {
        put_text(bus, room, BUS)
    }

    /// Gives the device's identity.
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], _device: c_int) {
        put(uuid, *b"ptx-device-00000")
    }

    /// Gives the device's identity.
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) {
        put(uuid, *b"ptx-device-00000")
    }

    /// Gives the size of the device's memory.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) {
        put(bytes, memory_bytes() as usize)
    }

    /// Gives the free and the whole memory of the device.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        put(free, state().free_bytes() as usize);
        put(total, memory_bytes() as usize)
    }

    /// Gives a property of the device.
    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, _device: c_int) {
        put(value, attribute(number))
    }
}
