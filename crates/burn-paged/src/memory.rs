//! What the process and the machine have, where the system tells (Linux).

/// The most memory that the process has had resident, in bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// What the process may have resident: what it has, and what is available.
pub(crate) fn limit() -> Option<u64> {
    Some(kib("/proc/self/status", "VmRSS:")? + kib("/proc/meminfo", "MemAvailable:")?)
}

fn kib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
