//! [`PagingReport`], the bytes that a step moved.

use serde::Serialize;

/// The sizes of the state, and what the last complete step moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PagingReport {
    /// Bytes of the whole state.
    pub state_bytes: u64,
    /// Bytes of it that stay resident.
    pub resident_bytes: u64,
    /// Bytes that the last complete step brought in.
    pub bytes_in: u64,
    /// Bytes that it wrote back.
    pub bytes_out: u64,
}

impl PagingReport {
    /// Returns the bytes moved by the last complete step: `2 · (state − resident)`. The first step makes the pages as it
    /// goes, so of those that are still growing it counts less.
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_in + self.bytes_out
    }
}
