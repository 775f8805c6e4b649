//! The process's memory, now and at its peak, and the memory it could have, in bytes, where the system tells (Linux).

use crate::store::MemoryUse;

/// Returns the peak resident set of this process.
pub fn peak_rss_bytes() -> Option<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// Returns the resident set of this process.
pub fn rss_bytes() -> Option<u64> {
    kib("/proc/self/status", "VmRSS:")
}

/// Returns what the machine could give to a process without swapping.
pub fn available_bytes() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

/// Returns all the memory of the machine, with what it can swap out.
pub fn total_bytes() -> Option<u64> {
    let memory = kib("/proc/meminfo", "MemTotal:")?;
    Some(memory.saturating_add(kib("/proc/meminfo", "SwapTotal:").unwrap_or(0)))
}

/// Returns the peak, and as its limit what is resident now and what the system could give beside it.
pub(crate) fn memory() -> MemoryUse {
    MemoryUse {
        peak: peak_rss_bytes(),
        limit: rss_bytes()
            .zip(available_bytes())
            .map(|(now, more)| now + more),
    }
}

fn kib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
