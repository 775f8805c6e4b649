//! A file, on disk or in memory, read at positions that are checked first.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::checksum::Checksum;
use crate::error::{Malformation, TensorFileError};

/// Bytes that an [`InputReader`] reads ahead.
const READ_AHEAD: usize = 1 << 16;

/// Bytes of a page of a sample, and the most pages.
const PAGE: usize = 1 << 12;
const PAGES: u64 = 16;

/// A read-only regular file with a known length, or bytes in memory that stand for one.
///
/// Reads go through a buffer of the caller's, not through a memory map: resident memory then counts only
/// what is kept, and a file that another process truncates gives an error instead of a signal.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    source: Source,
    len: u64,
}

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    Disk(Mutex<File>),
    Memory(Vec<u8>),
}

impl InputFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`TensorFileError::Read`]; [`Malformation::NotRegular`] for a folder, a device or a pipe.
    pub fn open(path: &Path) -> Result<Self, TensorFileError> {
        // Before it is opened, for that waits at a pipe until somebody writes to it.
        let metadata = fs::metadata(path).map_err(TensorFileError::read(path))?;
        if !metadata.is_file() {
            return Err(TensorFileError::malformed(path)(Malformation::NotRegular));
        }
        let file = File::open(path).map_err(TensorFileError::read(path))?;
        let metadata = file.metadata().map_err(TensorFileError::read(path))?;
        Ok(Self {
            path: path.to_owned(),
            source: Source::Disk(Mutex::new(file)),
            len: metadata.len(),
        })
    }

    /// Returns `bytes` as a file, known by `path` in errors: what a program has received where there are no files, as in a browser.
    pub fn of_bytes(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            len: bytes.len() as u64,
            source: Source::Memory(bytes),
        }
    }

    /// Returns an open file to read from, known by `path` in errors.
    pub(crate) fn of(file: File, path: &Path) -> io::Result<Self> {
        Ok(Self {
            len: file.metadata()?.len(),
            path: path.to_owned(),
            source: Source::Disk(Mutex::new(file)),
        })
    }

    /// Returns the path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Malformation::Truncated`] when the file ends before; [`TensorFileError::Read`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), TensorFileError> {
        let expected = buffer.len() as u64;
        if offset
            .checked_add(expected)
            .is_none_or(|end| end > self.len)
        {
            let fault = Malformation::Truncated {
                offset,
                expected,
                len: self.len,
            };
            return Err(TensorFileError::malformed(&self.path)(fault));
        }
        self.read_exact(offset, buffer)
            .map_err(TensorFileError::read(&self.path))
    }

    /// Adds a sample of the `len` bytes from `offset` on to `sum`: all of them up to 64 KiB, else 16 pages of 4 KiB, the
    /// first, the last, and others at equal distances between them.
    ///
    /// # Errors
    /// [`Malformation::Truncated`] when the file ends before; [`TensorFileError::Read`].
    pub fn sample(&self, offset: u64, len: u64, sum: &mut Checksum) -> Result<(), TensorFileError> {
        let mut buffer = [0; PAGE];
        let pages = len.div_ceil(PAGE as u64).min(PAGES);
        for page in 0..pages {
            let place = if len <= PAGES * PAGE as u64 {
                page * PAGE as u64
            } else {
                // In 128 bits, for the length may have 64.
                let last = u128::from(len - PAGE as u64);
                (last * u128::from(page) / u128::from(pages - 1)) as u64
            };
            let bytes = &mut buffer[..PAGE.min((len - place) as usize)];
            self.read_at(offset.saturating_add(place), bytes)?;
            sum.add(bytes);
        }
        Ok(())
    }

    /// Returns a sequential reader from the beginning on, as parsers want one.
    pub fn reader(&self) -> BufReader<InputReader<'_>> {
        let reader = InputReader {
            input: self,
            position: 0,
        };
        BufReader::with_capacity(READ_AHEAD, reader)
    }

    fn read_exact(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.source {
            Source::Disk(file) => {
                // A panic while another read held the lock leaves nothing but a position, which is set here anyway.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(buffer)
            }
            Source::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let mut rest = bytes.get(start..).unwrap_or_default();
                rest.read_exact(buffer)
            }
        }
    }
}

/// A sequential reader of an [`InputFile`].
#[derive(Debug)]
pub struct InputReader<'a> {
    input: &'a InputFile,
    position: u64,
}

impl Read for InputReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.input.len.saturating_sub(self.position);
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.input.read_exact(self.position, &mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for InputReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.input.len.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: &[u8], offset: u64, len: u64) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        std::fs::write(&path, bytes).unwrap();
        let mut sum = Checksum::default();
        InputFile::open(&path)
            .and_then(|file| file.sample(offset, len, &mut sum))
            .unwrap();
        sum.value()
    }

    #[test]
    fn a_short_sample_has_every_byte_and_a_long_one_its_ends_and_middle() {
        for len in [1usize, 4096, 5000, 65536, 65537, 1 << 20] {
            let bytes: Vec<u8> = (0..len + 7).map(|at| (at / 3) as u8).collect();
            let whole = sample(&bytes, 7, len as u64);
            let changed = |at: usize| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                sample(&bytes, 7, len as u64) != whole
            };
            assert!(changed(7) && changed(len + 6), "{len}");
            assert!(!changed(6), "{len}");
            if len <= 65536 {
                assert!(changed(7 + len / 2), "{len}");
            } else {
                let between = (7..len + 7).step_by(len / 64).filter(|at| changed(*at));
                assert!(between.count() > 2, "{len}");
            }
        }
    }
}
