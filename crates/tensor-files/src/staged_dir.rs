//! A folder that is complete or not there.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{AtomicFile, is_temporary};
use crate::error::TensorFileError;
use crate::mount::is_mount_point;
use crate::sync::{parent, sync_dir};

/// A folder that is being filled, hidden beside its destination.
///
/// [`publish`](Self::publish) gives it its name; dropped before, it is removed with all that is in it, unless it is
/// [resumable](Self::resumable) and something in it is complete.
#[derive(Debug)]
pub struct StagedDir {
    path: PathBuf,
    destination: PathBuf,
    /// Whether a folder at the destination gives way.
    replaces: bool,
    /// Whether what is complete in it stays for another process.
    resumable: bool,
    published: bool,
    /// Locked for as long as the folder is being filled, where folders can be: without a lock one is a leftover.
    _lock: Option<File>,
}

impl StagedDir {
    /// Begins a folder that will be `destination`, which must not exist or be empty; of a symbolic link it is the folder that
    /// the link names.
    ///
    /// What earlier processes left of the same folder, when they were killed, is removed.
    ///
    /// # Errors
    /// [`TensorFileError::Occupied`], [`TensorFileError::MountPoint`], [`TensorFileError::NoName`],
    /// [`TensorFileError::Read`], [`TensorFileError::Write`].
    pub fn new(destination: &Path) -> Result<Self, TensorFileError> {
        let destination = &vacant(destination)?;
        let name = name_of(destination)?;
        remove_leftovers(destination, name, None);
        // Another process may be writing to the same destination; which one gets it is settled at the end.
        let hidden = hidden_name(name, &std::process::id().to_string());
        Self::begin(parent(destination).join(hidden), destination, Kind::New)
    }

    /// Begins a folder as [`new`](Self::new) does, or goes on with the one in which a process that is gone was to make
    /// `destination` under the same `key`: a number that stands for everything that decides what will be in the folder.
    ///
    /// Of such a folder the complete files are there, as [`write`](Self::write) and [`AtomicFile`] made them; begun ones are
    /// removed. Folders that were to become `destination` under other keys are removed.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); [`TensorFileError::InUse`] when another process is at it.
    pub fn resumable(destination: &Path, key: u64) -> Result<Self, TensorFileError> {
        let destination = &vacant(destination)?;
        let name = name_of(destination)?;
        let hidden = hidden_name(name, &format!("{key:016x}"));
        remove_leftovers(destination, name, Some(&hidden));
        let path = parent(destination).join(hidden);
        if !path.is_dir() {
            return Self::begin(path, destination, Kind::Resumable);
        }
        let lock = match File::open(&path).map(|dir| (dir.try_lock(), dir)) {
            Ok((Err(TryLockError::WouldBlock), _)) => return Err(TensorFileError::InUse { path }),
            Ok((Ok(()), dir)) => Some(dir),
            // Where folders cannot be locked.
            Ok((Err(TryLockError::Error(_)), _)) | Err(_) => None,
        };
        remove_begun(&path)?;
        Ok(Self {
            path,
            destination: destination.clone(),
            replaces: false,
            resumable: true,
            published: false,
            _lock: lock,
        })
    }

    /// Begins a folder that will be `destination` in the place of what is there, under the name `hidden` until then.
    ///
    /// Anything that an earlier process left under that name is removed.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn replacing(destination: &Path, hidden: &str) -> Result<Self, TensorFileError> {
        let path = parent(destination).join(hidden);
        remove_if_there(&path)?;
        Self::begin(path, destination, Kind::Replacing)
    }

    fn begin(path: PathBuf, destination: &Path, kind: Kind) -> Result<Self, TensorFileError> {
        let parent = parent(destination);
        fs::create_dir_all(parent).map_err(TensorFileError::write(parent))?;
        let lock = loop {
            fs::create_dir(&path).map_err(TensorFileError::write(&path))?;
            let lock = File::open(&path)
                .and_then(|dir| dir.lock().map(|()| dir))
                .ok();
            // Before it was locked another process may have taken it for a leftover.
            if path.is_dir() {
                break lock;
            }
        };
        Ok(Self {
            path,
            destination: destination.to_owned(),
            replaces: kind == Kind::Replacing,
            resumable: kind == Kind::Resumable,
            published: false,
            _lock: lock,
        })
    }

    /// Returns the folder in which a process that is gone was to make `destination` and which another can
    /// [go on with](Self::resumable).
    pub fn unfinished(destination: &Path) -> Option<PathBuf> {
        let name = name_of(destination).ok()?;
        let mut entries = fs::read_dir(parent(destination)).ok()?.flatten();
        let found = entries.find(|entry| {
            let begun_by = entry.file_name();
            let begun_by = begun_by
                .to_str()
                .and_then(|hidden| begun_by_of(hidden, name));
            begun_by.is_some_and(is_key)
        })?;
        Some(found.path())
    }

    /// Returns where the folder is until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes and syncs a file of the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TensorFileError> {
        let mut file = AtomicFile::create(self.path.join(name))?;
        file.write_all(bytes)?;
        file.commit()
    }

    /// Copies a small file into the folder, under the name it has.
    ///
    /// # Errors
    /// [`TensorFileError::Read`], [`TensorFileError::Write`].
    pub fn copy(&self, from: &Path) -> Result<(), TensorFileError> {
        let bytes = fs::read(from).map_err(TensorFileError::read(from))?;
        let name = from.file_name().unwrap_or_default();
        self.write(&name.to_string_lossy(), &bytes)
    }

    /// Removes the folder with all that is in it, resumable or not.
    pub fn discard(mut self) {
        self.resumable = false;
    }

    /// Returns whether a file of this name is in the folder, complete.
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    /// Reads a small file of the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Read`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, TensorFileError> {
        let path = self.path.join(name);
        fs::read(&path).map_err(TensorFileError::read(&path))
    }

    /// Removes a file of the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn remove(&self, name: &str) -> Result<(), TensorFileError> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(TensorFileError::write(&path))
    }

    /// Gives the folder its name. Folder and parent are synced, so that the name never stands for less than all of
    /// it after a crash.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn publish(mut self) -> Result<(), TensorFileError> {
        if self.replaces {
            remove_if_there(&self.destination)?;
        }
        sync_dir(&self.path)
            .and_then(|()| fs::rename(&self.path, &self.destination))
            .map_err(TensorFileError::write(&self.destination))?;
        self.published = true;
        let parent = parent(&self.destination);
        sync_dir(parent).map_err(TensorFileError::write(parent))
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        let keeps = || self.resumable && remove_begun(&self.path).is_ok_and(|files| files > 0);
        if !self.published && !keeps() {
            // Something has failed already, and that is what is to be told.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// How a folder is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    Resumable,
    Replacing,
}

/// Returns the destination behind symbolic links, which is free.
fn vacant(destination: &Path) -> Result<PathBuf, TensorFileError> {
    let destination = match fs::symlink_metadata(destination) {
        Ok(metadata) if metadata.is_symlink() => {
            fs::canonicalize(destination).map_err(TensorFileError::read(destination))?
        }
        _ => destination.to_owned(),
    };
    match fs::read_dir(&destination) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(TensorFileError::Occupied { path: destination });
            }
            if is_mount_point(&destination) {
                return Err(TensorFileError::MountPoint { path: destination });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(TensorFileError::read(&destination)(error)),
    }
    Ok(destination)
}

fn name_of(destination: &Path) -> Result<&OsStr, TensorFileError> {
    destination
        .file_name()
        .ok_or_else(|| TensorFileError::NoName {
            path: destination.to_owned(),
        })
}

/// The end of the name of a folder that is being filled.
const HIDDEN_END: &str = ".partial";

/// Returns the name that a folder `name` has while it is being filled by the process, or under the key, `by`.
fn hidden_name(name: &OsStr, by: &str) -> String {
    format!("{}{by}{HIDDEN_END}", hidden_start(name))
}

/// Returns the beginning of the name that a folder `name` has while it is being filled; the number of the process or the key
/// follows.
fn hidden_start(name: &OsStr) -> String {
    format!(".{}.", name.to_string_lossy())
}

/// Returns the process or the key of a folder that is called `hidden` while it is being filled, if it is to be called `name`.
fn begun_by_of<'a>(hidden: &'a str, name: &OsStr) -> Option<&'a str> {
    hidden
        .strip_prefix(&hidden_start(name))?
        .strip_suffix(HIDDEN_END)
}

fn is_key(by: &str) -> bool {
    by.len() == 16 && by.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Removes the folders in which processes that are gone were to make the folder `name`, but the one called `kept`. What cannot
/// be removed, or may be another process's, stays.
fn remove_leftovers(destination: &Path, name: &OsStr, kept: Option<&str>) {
    let Ok(entries) = fs::read_dir(parent(destination)) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, hidden) = (entry.path(), entry.file_name());
        let hidden = hidden.to_str().filter(|hidden| Some(*hidden) != kept);
        let by = hidden.and_then(|hidden| begun_by_of(hidden, name));
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !by.is_some_and(|by| by.parse::<u32>().is_ok() || is_key(by)) || !is_dir {
            continue;
        }
        if let Ok(dir) = File::open(&path)
            && dir.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Removes the files of a folder that were begun and not finished, and returns how many there are beside them.
fn remove_begun(dir: &Path) -> Result<usize, TensorFileError> {
    let mut complete = 0;
    for entry in fs::read_dir(dir).map_err(TensorFileError::read(dir))? {
        let path = entry.map_err(TensorFileError::read(dir))?.path();
        if is_temporary(&path) {
            fs::remove_file(&path).map_err(TensorFileError::write(&path))?;
        } else {
            complete += 1;
        }
    }
    Ok(complete)
}

fn remove_if_there(path: &Path) -> Result<(), TensorFileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TensorFileError::write(path)(error))
        }
        _ => Ok(()),
    }
}
