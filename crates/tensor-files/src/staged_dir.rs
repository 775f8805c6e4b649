//! A folder that is complete or not there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;
use crate::mount::is_mount_point;
use crate::sync::{parent, sync_dir};

/// A folder that is being filled, hidden beside its destination.
///
/// [`publish`](Self::publish) gives it its name; dropped before, it is removed with all that is in it.
#[derive(Debug)]
pub struct StagedDir {
    path: PathBuf,
    destination: PathBuf,
    /// Whether a folder at the destination gives way.
    replaces: bool,
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
        let target = match fs::symlink_metadata(destination) {
            Ok(metadata) if metadata.is_symlink() => {
                fs::canonicalize(destination).map_err(TensorFileError::read(destination))?
            }
            _ => destination.to_owned(),
        };
        let destination = &target;
        match fs::read_dir(destination) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(TensorFileError::Occupied {
                        path: destination.to_owned(),
                    });
                }
                if is_mount_point(destination) {
                    return Err(TensorFileError::MountPoint {
                        path: destination.to_owned(),
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(TensorFileError::read(destination)(error)),
        }
        let name = destination
            .file_name()
            .ok_or_else(|| TensorFileError::NoName {
                path: destination.to_owned(),
            })?;
        remove_leftovers(destination, name);
        // Another process may be writing to the same destination; which one gets it is settled at the end.
        let hidden = format!("{}{}{HIDDEN_END}", hidden_start(name), std::process::id());
        Self::begin(parent(destination).join(hidden), destination, false)
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
        Self::begin(path, destination, true)
    }

    fn begin(path: PathBuf, destination: &Path, replaces: bool) -> Result<Self, TensorFileError> {
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
            replaces,
            published: false,
            _lock: lock,
        })
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
        if !self.published {
            // Something has failed already, and that is what is to be told.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The end of the name of a folder that is being filled.
const HIDDEN_END: &str = ".partial";

/// Returns the beginning of the name that a folder `name` has while it is being filled; the number of the process follows.
fn hidden_start(name: &OsStr) -> String {
    format!(".{}.", name.to_string_lossy())
}

/// Removes the folders in which processes that are gone were to make the folder `name`. What cannot be removed, or may
/// be another process's, stays.
fn remove_leftovers(destination: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(parent(destination)) else {
        return;
    };
    let start = hidden_start(name);
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let process = name.to_str().and_then(|name| {
            name.strip_prefix(&start)?
                .strip_suffix(HIDDEN_END)?
                .parse::<u32>()
                .ok()
        });
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if process.is_none() || !is_dir {
            continue;
        }
        if let Ok(dir) = File::open(&path)
            && dir.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn remove_if_there(path: &Path) -> Result<(), TensorFileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TensorFileError::write(path)(error))
        }
        _ => Ok(()),
    }
}
