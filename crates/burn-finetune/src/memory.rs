//! The process's memory, now and at its peak, and the memory it could have, where the system tells (Linux).

/// Returns the peak resident set of this process, in bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// Returns the resident set of this process, in bytes.
pub fn rss_bytes() -> Option<u64> {
    kib("/proc/self/status", "VmRSS:")
}

/// Returns what the machine could give to a process without swapping, in bytes.
pub fn available_bytes() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

fn kib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
