//! How much memory the process has, has had at its peak, and could have.

/// The peak resident set of this process in bytes, where the system tells (Linux: `VmHWM` of
/// `/proc/self/status`).
pub fn peak_rss_bytes() -> Option<u64> {
    bytes("/proc/self/status", "VmHWM:")
}

/// The resident set of this process in bytes, where the system tells (Linux: `VmRSS` of `/proc/self/status`).
pub fn rss_bytes() -> Option<u64> {
    bytes("/proc/self/status", "VmRSS:")
}

/// What the machine could give to a process without swapping, in bytes, where the system tells (Linux:
/// `MemAvailable` of `/proc/meminfo`).
pub fn available_bytes() -> Option<u64> {
    bytes("/proc/meminfo", "MemAvailable:")
}

fn bytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
