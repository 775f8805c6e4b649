//! A folder that is complete or not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;
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
}

impl StagedDir {
    /// Begins a folder that will be `destination`, which must not exist or be empty.
    ///
    /// # Errors
    /// [`TensorFileError::Occupied`], [`TensorFileError::NoName`], [`TensorFileError::Read`],
    /// [`TensorFileError::Write`].
    pub fn new(destination: &Path) -> Result<Self, TensorFileError> {
        match fs::read_dir(destination) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(TensorFileError::Occupied {
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
        // Another process may be writing to the same destination; which one gets it is settled at the end.
        let hidden = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
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
        fs::create_dir(&path).map_err(TensorFileError::write(&path))?;
        Ok(Self {
            path,
            destination: destination.to_owned(),
            replaces,
            published: false,
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

fn remove_if_there(path: &Path) -> Result<(), TensorFileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TensorFileError::write(path)(error))
        }
        _ => Ok(()),
    }
}
