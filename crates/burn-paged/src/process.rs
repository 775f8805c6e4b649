//! The process's peak resident memory, and the memory it could have, where the system tells (Linux).

use crate::store::MemoryUse;

/// Returns the peak resident set of the process, and as its limit what is resident now and what the system could give
/// beside it without swapping.
pub(crate) fn memory() -> MemoryUse {
    let status = |field| kib("/proc/self/status", field);
    let available = kib("/proc/meminfo", "MemAvailable:");
    MemoryUse {
        peak: status("VmHWM:"),
        limit: status("VmRSS:")
            .zip(available)
            .map(|(now, more)| now + more),
    }
}

fn kib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
