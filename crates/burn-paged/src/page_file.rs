//! The page file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::PagedError;

const MAGIC: [u8; 8] = *b"BRNPAGE1";

/// Returns whether there is a page file at `path`, in use or left by a process that was killed.
pub fn is_page_file(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    // A pipe would keep whoever opens it.
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file
        && File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == MAGIC
}

/// Room for the header, so that pages lie aligned.
const HEADER: u64 = 4096;

/// A file of pages of one size, scratch space of one process: made when the first page is streamed,
/// locked while it is used, removed when it is dropped.
///
/// ```text
/// 0     "BRNPAGE1"
/// 8     number of this use, u64 little-endian
/// 16    bytes of a page, u64 little-endian
/// 4096  page 0, page 1, ...
/// ```
#[derive(Debug)]
pub(crate) struct PageFile {
    path: PathBuf,
    file: File,
    page_bytes: u64,
    /// Tells this use of the file from every other.
    number: u64,
    pages: u64,
}

impl PageFile {
    /// Makes the file. One that a process left when it was killed is used again; anything else at
    /// `path` stays as it is.
    ///
    /// # Errors
    /// [`PagedError::NotOurs`], [`PagedError::InUse`], [`PagedError::PageFile`].
    pub fn create(path: &Path, page_bytes: usize) -> Result<Self, PagedError> {
        let failed = |error: io::Error| refused(path, "create", &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let not_ours = || PagedError::NotOurs {
            path: path.to_owned(),
        };
        if !metadata.is_file() {
            return Err(not_ours());
        }
        if metadata.len() > 0 {
            let mut magic = [0; MAGIC.len()];
            match file.read_exact(&mut magic) {
                Ok(()) if magic == MAGIC => {}
                _ => return Err(not_ours()),
            }
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PagedError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut this = Self {
            path: path.to_owned(),
            file,
            page_bytes: page_bytes as u64,
            number: unique(),
            pages: 0,
        };
        this.file.set_len(0).map_err(failed)?;
        let mut header = [0; HEADER as usize];
        header[..24].copy_from_slice(&this.header());
        this.write_at(0, &header, "create")?;
        this.file.set_len(HEADER).map_err(failed)?;
        Ok(this)
    }

    /// Adds pages of zeros until there are `pages`. Their room on the disk is taken now, so that a full disk is found here
    /// and not when a page is written back.
    #[cfg(any(test, feature = "host-pages"))]
    pub fn extend(&mut self, pages: usize) -> Result<(), PagedError> {
        let zeros = vec![0; (self.page_bytes as usize).min(1 << 20)];
        while self.pages < pages as u64 {
            let begin = self.position(self.pages);
            let mut done = 0;
            while done < self.page_bytes {
                let count = (self.page_bytes - done).min(zeros.len() as u64);
                self.write_at(begin + done, &zeros[..count as usize], "extend")?;
                done += count;
            }
            self.pages += 1;
        }
        Ok(())
    }

    /// Adds pages that begin with `bytes` and end with zeros, and returns the first of them.
    pub fn append(&mut self, bytes: &[u8]) -> Result<usize, PagedError> {
        let first = self.pages;
        let begin = self.position(first);
        self.write_at(begin, bytes, "extend")?;
        self.pages += (bytes.len() as u64).div_ceil(self.page_bytes);
        let end = self.position(self.pages);
        let extended = self.file.set_len(end);
        extended.map_err(|error| refused(&self.path, "extend", &error))?;
        Ok(first as usize)
    }

    /// Checks that the file is still what it was made as, before anything in it is used or overwritten.
    ///
    /// # Errors
    /// [`PagedError::Missing`], [`PagedError::Truncated`], [`PagedError::NotOurs`].
    pub fn check(&mut self) -> Result<(), PagedError> {
        let failed = |error: io::Error| refused(&self.path, "inspect", &error);
        let missing = || PagedError::Missing {
            path: self.path.clone(),
        };
        let there = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => return Err(failed(error)),
        };
        let held = self.file.metadata().map_err(failed)?;
        if !same_file(&there, &held) {
            return Err(missing());
        }
        let expected = self.position(self.pages);
        if held.len() < expected {
            return Err(PagedError::Truncated {
                path: self.path.clone(),
                expected,
                actual: held.len(),
            });
        }
        let mut header = self.header();
        let expected = header;
        self.read_at(0, &mut header)?;
        if header != expected {
            return Err(PagedError::NotOurs {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Reads from the beginning of a page, and on into those behind it.
    pub fn read(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagedError> {
        self.read_at(self.position(page as u64), into)
    }

    /// Writes the beginning of a page.
    #[cfg(any(test, feature = "host-pages"))]
    pub fn write(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagedError> {
        self.write_at(self.position(page as u64), bytes, "write")
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn position(&self, page: u64) -> u64 {
        HEADER + page * self.page_bytes
    }

    fn header(&self) -> [u8; 24] {
        let mut header = [0; 24];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..].copy_from_slice(&self.page_bytes.to_le_bytes());
        header
    }

    fn read_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), PagedError> {
        let read = self
            .file
            .seek(SeekFrom::Start(position))
            .and_then(|_| self.file.read_exact(into));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PagedError::Truncated {
                path: self.path.clone(),
                expected: self.position(self.pages),
                actual: self.file.metadata().map_or(0, |metadata| metadata.len()),
            },
            _ => refused(&self.path, "read", &error),
        })
    }

    fn write_at(
        &mut self,
        position: u64,
        bytes: &[u8],
        operation: &'static str,
    ) -> Result<(), PagedError> {
        self.file
            .seek(SeekFrom::Start(position))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|error| refused(&self.path, operation, &error))
    }
}

impl Drop for PageFile {
    /// Removes the file, whose contents are of no further use. Another's file that has taken its place is left alone.
    fn drop(&mut self) {
        let ours = std::fs::metadata(&self.path)
            .and_then(|there| Ok(same_file(&there, &self.file.metadata()?)));
        if ours.unwrap_or(false) {
            // What cannot be removed now is used again by the next run.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn refused(path: &Path, operation: &'static str, error: &io::Error) -> PagedError {
    PagedError::PageFile {
        path: path.to_owned(),
        operation,
        reason: error.to_string(),
    }
}

#[cfg(unix)]
fn same_file(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Elsewhere a file that is open cannot be replaced.
#[cfg(not(unix))]
fn same_file(_: &std::fs::Metadata, _: &std::fs::Metadata) -> bool {
    true
}

/// Returns a number that no other use of a page file on this machine has.
fn unique() -> u64 {
    static USES: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64);
    let process = u64::from(std::process::id());
    time ^ process.rotate_left(40) ^ USES.fetch_add(1, Ordering::Relaxed).rotate_left(20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn pages_come_back_and_the_file_goes() {
        let dir = dir();
        let path = dir.path().join("pages");
        let mut file = PageFile::create(&path, 64).unwrap();
        file.extend(3).unwrap();
        file.write(1, &[7; 64]).unwrap();
        let mut page = [1; 64];
        file.read(2, &mut page).unwrap();
        assert_eq!(page, [0; 64]);
        file.read(1, &mut page).unwrap();
        assert_eq!(page, [7; 64]);
        file.check().unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn another_file_is_left_as_it_is() {
        let dir = dir();
        let path = dir.path().join("letter.txt");
        fs::write(&path, "Dear reader").unwrap();
        let error = PageFile::create(&path, 64).unwrap_err();
        assert!(matches!(error, PagedError::NotOurs { .. }), "{error}");
        assert!(error.to_string().contains("letter.txt"));
        assert_eq!(fs::read(&path).unwrap(), b"Dear reader");
        assert!(PageFile::create(dir.path(), 64).is_err());
    }

    #[test]
    fn a_file_in_use_is_refused_and_one_left_over_is_not() {
        let dir = dir();
        let path = dir.path().join("pages");
        let mut first = PageFile::create(&path, 64).unwrap();
        first.extend(1).unwrap();
        let error = PageFile::create(&path, 64).unwrap_err();
        assert!(matches!(error, PagedError::InUse { .. }), "{error}");
        first.check().unwrap();
        let left = fs::read(&path).unwrap();
        drop(first);
        fs::write(&path, left).unwrap();
        PageFile::create(&path, 32).unwrap().check().unwrap();
    }

    #[test]
    fn what_happens_to_the_file_is_told_apart() {
        let dir = dir();
        let path = dir.path().join("pages");
        let make = || {
            let mut file = PageFile::create(&path, 64).unwrap();
            file.extend(2).unwrap();
            file
        };
        let mut file = make();
        file.file.set_len(HEADER + 100).unwrap();
        let error = file.check().unwrap_err();
        let [expected, actual] = [HEADER + 128, HEADER + 100];
        assert_eq!(
            error,
            PagedError::Truncated {
                path: path.clone(),
                expected,
                actual
            }
        );
        assert!(matches!(
            file.read(1, &mut [0; 64]),
            Err(PagedError::Truncated { .. })
        ));
        drop(file);

        let mut file = make();
        file.write_at(0, b"something", "write").unwrap();
        assert!(matches!(file.check(), Err(PagedError::NotOurs { .. })));
        drop(file);

        let mut file = make();
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.check(), Err(PagedError::Missing { .. })));
        fs::write(&path, "another's").unwrap();
        assert!(matches!(file.check(), Err(PagedError::Missing { .. })));
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }
}
