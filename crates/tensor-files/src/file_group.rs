//! Several files of one folder that take their names together.

use std::fs;
use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFile;
use crate::error::TensorFileError;

/// A folder in which several files are being written.
///
/// All of them are complete and synced before the first takes its name, so that a full disk leaves the folder as it
/// was. A folder that was made for them is removed when they are not [committed](Self::commit).
#[derive(Debug)]
pub struct FileGroup {
    dir: PathBuf,
    /// Whether the folder was made here and has nothing in it yet.
    made: bool,
}

impl FileGroup {
    /// Begins in the folder `dir`, which is made when it is missing.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn create(dir: &Path) -> Result<Self, TensorFileError> {
        let made = !dir.is_dir();
        if made {
            fs::create_dir_all(dir).map_err(TensorFileError::write(dir))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            made,
        })
    }

    /// Begins a file of the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn file(&self, name: &str) -> Result<AtomicFile, TensorFileError> {
        AtomicFile::create(self.dir.join(name))
    }

    /// Syncs `files` and then gives them their names, in this order.
    ///
    /// # Errors
    /// [`TensorFileError::Write`] naming the file that failed.
    pub fn commit(
        mut self,
        files: impl IntoIterator<Item = AtomicFile>,
    ) -> Result<(), TensorFileError> {
        let mut files: Vec<AtomicFile> = files.into_iter().collect();
        for file in &mut files {
            file.sync()?;
        }
        for file in files {
            file.publish()?;
        }
        self.made = false;
        Ok(())
    }
}

impl Drop for FileGroup {
    fn drop(&mut self) {
        if self.made {
            // Only an empty folder goes; anything in it is somebody's.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}
