//! How the C library keeps freed memory.

/// Keeps what is freed for the next allocation, up to 128 MiB of it.
///
/// Every step frees and allocates the same activations. glibc gives blocks that large back to the system at once, and
/// each comes back as pages that must be cleared again: half of the system time of a step.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both are settings of the allocator, which may be changed at any time; no memory is touched. Where it does
    // not take them it goes on as before.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 20);
    }
}
