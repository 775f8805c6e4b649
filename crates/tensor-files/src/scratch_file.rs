//! A file that nobody else sees.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::TensorFileError;
use crate::input::InputFile;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// A file without a name, for what is too much for memory: written from its beginning to its end, then
/// [read](Self::into_input). It is gone with its last handle, however the process ends.
#[derive(Debug)]
pub struct ScratchFile {
    dir: PathBuf,
    file: BufWriter<File>,
}

impl ScratchFile {
    /// Begins a file in the folder `dir`, which must be there and have room for it.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn create_in(dir: impl Into<PathBuf>) -> Result<Self, TensorFileError> {
        let dir = dir.into();
        let file = tempfile::tempfile_in(&dir).map_err(TensorFileError::write(&dir))?;
        Ok(Self {
            dir,
            file: BufWriter::with_capacity(BUFFER, file),
        })
    }

    /// Returns the folder that it takes room in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `bytes` behind what is there.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), TensorFileError> {
        self.file
            .write_all(bytes)
            .map_err(TensorFileError::write(&self.dir))
    }

    /// Ends the writing and returns the file to read from. Its path is that of the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn into_input(self) -> Result<InputFile, TensorFileError> {
        let Self { dir, file } = self;
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| InputFile::of(file, &dir))
            .map_err(TensorFileError::write(&dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = ScratchFile::create_in(dir.path()).unwrap();
        for piece in [&b"some"[..], b" ", b"bytes"] {
            file.write_all(piece).unwrap();
        }
        let input = file.into_input().unwrap();
        let mut found = [0; 5];
        input.read_at(5, &mut found).unwrap();
        assert_eq!((&found, input.len()), (b"bytes", 10));
        assert!(input.read_at(6, &mut found).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = dir.path().join("missing");
        assert!(matches!(
            ScratchFile::create_in(missing),
            Err(TensorFileError::Write { .. })
        ));
    }
}
