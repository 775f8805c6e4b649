//! The process's memory, now and at its peak, and the memory it could have, where the system tells (Linux); a device's,
//! where it tells.

pub use burn_paged::process::{available_bytes, peak_rss_bytes, rss_bytes, total_bytes};

use burn::tensor::Device;

/// Returns the bytes that the allocator of `device` has reserved; `None` where there is none of its own, as on Flex.
///
/// CubeCL keeps the pages that a step needed for the next one: what is reserved after a step is the most that was.
pub fn reserved_device_bytes(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved)
}
