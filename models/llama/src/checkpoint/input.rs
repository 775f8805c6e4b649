//! A file read at positions that are checked first.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::LlamaError;

/// A read-only file with a known length.
///
/// Reads go through one buffer of the caller's, not through a memory map: resident memory then counts only
/// what is kept, and a file that another process truncates gives an error instead of a signal.
#[derive(Debug)]
pub(crate) struct InputFile {
    path: PathBuf,
    file: Mutex<File>,
    len: u64,
}

impl InputFile {
    pub(crate) fn open(path: &Path) -> Result<Self, LlamaError> {
        let file = File::open(path).map_err(LlamaError::io(path))?;
        let metadata = file.metadata().map_err(LlamaError::io(path))?;
        if !metadata.is_file() {
            return Err(LlamaError::malformed(path, "not a regular file"));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            len: metadata.len(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LlamaError> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(LlamaError::malformed(
                &self.path,
                format!(
                    "truncated: {} bytes were expected at offset {offset}, the file has {}; fetch it again",
                    buffer.len(),
                    self.len
                ),
            ));
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .map_err(LlamaError::io(&self.path))?;
        file.read_exact(buffer).map_err(LlamaError::io(&self.path))
    }
}

/// A sequential reader of an [`InputFile`], as parsers want one.
#[cfg(feature = "gguf")]
pub(crate) struct Reader<'a> {
    input: &'a InputFile,
    position: u64,
}

#[cfg(feature = "gguf")]
impl InputFile {
    pub(crate) fn reader(&self) -> std::io::BufReader<Reader<'_>> {
        std::io::BufReader::with_capacity(
            1 << 16,
            Reader {
                input: self,
                position: 0,
            },
        )
    }
}

#[cfg(feature = "gguf")]
impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.input.len.saturating_sub(self.position);
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut file = self
            .input
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.position))?;
        file.read_exact(&mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(feature = "gguf")]
impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.input.len.checked_add_signed(by),
        };
        self.position = position.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
