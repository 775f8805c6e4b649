//! How much memory this process has had at its peak.

/// The peak resident set of this process in bytes, where the system tells (Linux: `VmHWM` of
/// `/proc/self/status`).
pub fn peak_rss_bytes() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` of a `/proc/PID/status` text, in bytes.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A number of bytes for people: `1.24 GB`.
pub fn human_bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.0} kB", b / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_and_nonsense_is_not() {
        let status = "Name:\tfinetune\nVmPeak:\t  300 kB\nVmHWM:\t   123 kB\n";
        assert_eq!(high_water_mark(status), Some(123 * 1024));
        assert_eq!(high_water_mark("VmHWM:\tmany kB\n"), None);
        assert_eq!(high_water_mark(""), None);
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(human_bytes(1_236_000_000), "1.24 GB");
        assert_eq!(human_bytes(98_362_432), "98 MB");
        assert_eq!(human_bytes(2_000), "2 kB");
    }
}
