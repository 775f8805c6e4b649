//! A parser and the files it is tried on.

use crate::allocations::peak_during;
use crate::edits::{Edit, edited};
use bolero::{TypeGenerator, check};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A good file, by its place, and mistakes in it.
#[derive(Debug, Clone, TypeGenerator)]
struct Input {
    which: u8,
    edits: Vec<Edit>,
}

/// Memory that a parser may take whatever the input is, in bytes.
pub const FIXED_BYTES: usize = 4 << 20;
/// Memory that a parser may take for each byte of its input.
const BYTES_PER_BYTE: usize = 64;

/// Gives `parse` good files with mistakes in them.
///
/// # Panics
/// If it panics, or takes more memory than the input explains.
pub fn fuzz(good: &[Vec<u8>], parse: impl Fn(&[u8])) {
    fuzz_within(FIXED_BYTES, good, parse);
}

/// Gives `parse` good files with mistakes in them, where it may take `fixed` bytes whatever the input is.
///
/// # Panics
/// As [`fuzz`].
pub fn fuzz_within(fixed: usize, good: &[Vec<u8>], parse: impl Fn(&[u8])) {
    let parse = std::panic::AssertUnwindSafe(parse);
    check!().with_type::<Input>().for_each(|input| {
        let good = &good[usize::from(input.which) % good.len()];
        let bytes = edited(good, &input.edits);
        check_memory(fixed, bytes.len(), || parse(&bytes));
    });
}

/// Runs `parse`, which may take `fixed` bytes of memory and what an input of `length` bytes explains.
///
/// # Panics
/// If it takes more.
pub fn check_memory(fixed: usize, length: usize, parse: impl FnOnce()) {
    let peak = peak_during(parse);
    assert!(
        peak <= fixed + BYTES_PER_BYTE * length,
        "{peak} bytes of memory for {length} of input"
    );
}

/// A folder in memory, where the system has one, so that a file costs little.
pub struct Folder(TempDir);

impl Folder {
    /// Makes one.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        Self(folder.expect("a temporary folder"))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}
