//! What a file is written to.

use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;

/// What takes the bytes of a file, one piece behind the other.
pub trait Output {
    /// Returns the path that errors know the file by.
    fn path(&self) -> &Path;

    /// Writes `bytes` behind what is there.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), TensorFileError>;
}

impl Output for AtomicFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), TensorFileError> {
        self.write_all(bytes)
    }
}

/// A file in memory, for a program that hands it to somebody else, as one in a browser does.
#[derive(Debug)]
pub struct MemoryFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl MemoryFile {
    /// Returns an empty file, known by `path` in errors.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes: Vec::new(),
        }
    }

    /// Returns what was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Output for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), TensorFileError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
