//! A file that one process holds.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::TensorFileError;
use crate::sync::{parent, sync_dir};

/// A small file with the system's advisory lock on it, which ends with this value, and with the process however it
/// ends.
///
/// A file system that has no locks lets everybody pass; [`is_locked`](Self::is_locked) tells.
#[derive(Debug)]
pub struct LockedFile {
    path: PathBuf,
    file: File,
    locked: bool,
}

impl LockedFile {
    /// Makes the file at `path`, which must not exist, with `bytes` in it. It takes its name when it is written,
    /// synced and locked: nobody finds half of it, and nobody can lock it first.
    ///
    /// # Errors
    /// [`TensorFileError::Write`], of kind [`io::ErrorKind::AlreadyExists`] when something has the name.
    pub fn create(path: &Path, bytes: &[u8]) -> Result<Self, TensorFileError> {
        let written = || -> io::Result<Self> {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
            let mut prefix = name.to_os_string();
            prefix.push(".");
            // Opened here, for tempfile's own files can be read by their owner only.
            let mut hidden = tempfile::Builder::new()
                .prefix(&prefix)
                .suffix(".tmp")
                .make_in(parent(path), |path| {
                    let mut options = OpenOptions::new();
                    options.read(true).write(true).create_new(true).open(path)
                })?;
            let locked = lock(hidden.as_file())?;
            hidden.write_all(bytes)?;
            hidden.as_file().sync_all()?;
            let file = match hidden.persist_noclobber(path) {
                Ok(file) => file,
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(error.error);
                }
                // Not every file system can rename without replacing; what is there was looked at before.
                Err(error) if !path.exists() => {
                    error.file.persist(path).map_err(|error| error.error)?
                }
                Err(error) => return Err(error.error),
            };
            sync_dir(parent(path))?;
            Ok(Self {
                path: path.to_owned(),
                file,
                locked: locked.is_some(),
            })
        };
        written().map_err(TensorFileError::write(path))
    }

    /// Opens and locks the file at `path`.
    ///
    /// # Errors
    /// [`TensorFileError::InUse`] when another process, or another value in this one, holds it;
    /// [`TensorFileError::Read`].
    pub fn open(path: &Path) -> Result<Self, TensorFileError> {
        // Some network file systems lock only what can be written.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(TensorFileError::read(path))?;
        let locked = match lock(&file) {
            Ok(locked) => locked.is_some(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(TensorFileError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(TensorFileError::read(path)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            locked,
        })
    }

    /// Returns what is in it.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn read(&mut self) -> Result<Vec<u8>, TensorFileError> {
        let mut bytes = Vec::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_end(&mut bytes))
            .map_err(TensorFileError::read(&self.path))?;
        Ok(bytes)
    }

    /// Returns whether the file system has locks, so that nobody else can hold it.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Removes what a process that was killed while it made the file at `path` has left beside it.
    ///
    /// # Errors
    /// [`TensorFileError::InUse`] when one is just making it; [`TensorFileError::Write`].
    pub fn remove_unfinished(path: &Path) -> Result<(), TensorFileError> {
        let entries = match fs::read_dir(parent(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(TensorFileError::read(parent(path))(error)),
        };
        for entry in entries.filter_map(Result::ok) {
            if is_unfinished(path, &entry.file_name()) {
                drop(Self::open(&entry.path())?);
                fs::remove_file(entry.path()).map_err(TensorFileError::write(&entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Returns whether `name` is a temporary one that the file at `path`, or an [`AtomicFile`](crate::AtomicFile) there, has
/// until it is finished.
fn is_unfinished(path: &Path, name: &std::ffi::OsStr) -> bool {
    let (Some(own), Some(name)) = (path.file_name().and_then(|own| own.to_str()), name.to_str())
    else {
        return false;
    };
    let middle = name
        .strip_prefix(own)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".tmp"));
    middle.is_some_and(|middle| middle.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Locks `file`; `None` where the file system has no locks.
fn lock(file: &File) -> io::Result<Option<()>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn has_no_locks(error: &io::Error) -> bool {
    /// `ENOLCK`, as file systems over a network without a lock server say it.
    const NO_LOCKS: i32 = 37;
    error.kind() == io::ErrorKind::Unsupported
        || cfg!(target_os = "linux") && error.raw_os_error() == Some(NO_LOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_next_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held.json");
        let mut first = LockedFile::create(&path, b"{}").unwrap();
        assert!(first.is_locked());
        assert_eq!(first.read().unwrap(), b"{}");
        let error = LockedFile::open(&path).unwrap_err();
        assert!(matches!(error, TensorFileError::InUse { .. }), "{error}");
        drop(first);
        assert_eq!(LockedFile::open(&path).unwrap().read().unwrap(), b"{}");
        let error = LockedFile::create(&path, b"other").unwrap_err();
        assert!(
            matches!(&error, TensorFileError::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"{}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_unfinished_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held.json");
        let names = [
            "held.json",
            "held.json.tmp",
            "held.json.a.b.tmp",
            "x.held.json.aB3.tmp",
        ];
        for name in names.iter().chain(&["held.json.aB3xYz.tmp"]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let beside = dir.path().join("held.json.aB3xYz.tmp");
        let making = LockedFile::open(&beside).unwrap();
        let error = LockedFile::remove_unfinished(&path).unwrap_err();
        assert!(matches!(error, TensorFileError::InUse { .. }), "{error}");
        drop(making);
        LockedFile::remove_unfinished(&path).unwrap();
        assert!(!beside.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len());
    }
}
