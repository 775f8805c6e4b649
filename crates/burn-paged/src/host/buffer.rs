//! Bytes that are aligned for the values in them.

use std::ops::{Deref, DerefMut};

/// A page's bytes, aligned to 8. Lengths are multiples of 8, as pages and runs are.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u64>);

impl Buffer {
    pub fn zeros(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(8)])
    }

    /// Makes it longer, with zeros.
    pub fn grow(&mut self, bytes: usize) {
        self.0.resize(self.0.len().max(bytes.div_ceil(8)), 0);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
