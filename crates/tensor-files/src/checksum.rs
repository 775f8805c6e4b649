//! A checksum of bytes.

use std::fs::File;
use std::hash::Hasher;
use std::io::Read;
use std::path::Path;

use twox_hash::XxHash3_64;

use crate::error::TensorFileError;

/// Bytes of a file that are read at a time.
const CHUNK: usize = 1 << 20;

/// A checksum of bytes as they come: XXH3 with 64 bits. It tells damaged or other bytes, not forged ones.
#[derive(Clone)]
pub struct Checksum(XxHash3_64);

impl Default for Checksum {
    fn default() -> Self {
        Self(XxHash3_64::with_seed(0))
    }
}

impl Checksum {
    /// Returns the checksum of the file at `path`.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn of_file(path: &Path) -> Result<u64, TensorFileError> {
        let mut file = File::open(path).map_err(TensorFileError::read(path))?;
        let mut sum = Self::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            match file
                .read(&mut buffer)
                .map_err(TensorFileError::read(path))?
            {
                0 => return Ok(sum.value()),
                count => sum.add(&buffer[..count]),
            }
        }
    }

    /// Adds `bytes` behind those before.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Adds `bytes` with their number before them, so that neighbours cannot be cut otherwise and be the same.
    pub fn add_framed(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// Returns the checksum of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `xxhsum -H3` of the empty file and of `abc`.
    #[test]
    fn it_is_xxh3() {
        let of = |parts: &[&[u8]]| {
            let mut sum = Checksum::default();
            parts.iter().for_each(|part| sum.add(part));
            sum.value()
        };
        assert_eq!(of(&[]), 0x2d06_8005_38d3_94c2);
        assert_eq!(of(&[b"abc"]), 0x78af_5f94_892f_3950);
        assert_eq!(of(&[b"a", b"bc"]), of(&[b"abc"]));
    }

    #[test]
    fn frames_tell_where_neighbours_meet() {
        let of = |parts: [&[u8]; 2]| {
            let mut sum = Checksum::default();
            parts.iter().for_each(|part| sum.add_framed(part));
            sum.value()
        };
        assert_ne!(of([b"ab", b"c"]), of([b"a", b"bc"]));
    }
}
