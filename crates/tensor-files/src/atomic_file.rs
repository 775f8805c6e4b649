//! A file that is complete or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::TensorFileError;
use crate::input::InputFile;
use crate::sync::{parent, sync_dir};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 16;

/// A file that is being written, under a temporary name beside its own.
///
/// [`commit`](Self::commit) gives it its name; dropped before, it is removed. What had the name before has it until
/// then.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    file: BufWriter<Hidden>,
}

/// A file under a temporary name, which is not in the errors of writing to it: those that tempfile gives name it beside the path
/// that the user knows.
#[derive(Debug)]
struct Hidden(NamedTempFile);

impl Write for Hidden {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_file_mut().flush()
    }
}

impl AtomicFile {
    /// Begins the file at `path`, whose folder must be there.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, TensorFileError> {
        let path = path.into();
        let file = temporary_beside(&path).map_err(TensorFileError::write(&path))?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(BUFFER, Hidden(file)),
        })
    }

    /// Returns the path it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` behind what is there.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), TensorFileError> {
        self.file
            .write_all(bytes)
            .map_err(TensorFileError::write(&self.path))
    }

    /// Makes the file `len` bytes long, of which those that are not written yet read as zeros, and returns it to read from: a header
    /// can be checked before what it announces is written.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn so_far(&mut self, len: u64) -> Result<InputFile, TensorFileError> {
        self.file
            .flush()
            .and_then(|()| {
                let file = &self.file.get_ref().0;
                file.as_file().set_len(len)?;
                InputFile::of(file.reopen()?, &self.path)
            })
            .map_err(TensorFileError::write(&self.path))
    }

    /// Ends the writing without giving the file its name, and returns it to read from: it is gone with the result. Errors know it by
    /// `path`, what it was made from.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn into_scratch(mut self, path: &Path) -> Result<InputFile, TensorFileError> {
        self.file
            .flush()
            .and_then(|()| InputFile::of(self.file.get_ref().0.reopen()?, path))
            .map_err(TensorFileError::write(&self.path))
    }

    /// Writes all that is left of `source` behind what is there.
    ///
    /// # Errors
    /// [`TensorFileError::Write`], of whichever of the two files.
    pub fn copy_from(&mut self, source: &mut File) -> Result<(), TensorFileError> {
        // From file to file the system copies by itself where it can.
        self.file
            .flush()
            .and_then(|()| io::copy(source, self.file.get_mut().0.as_file_mut()))
            .map(drop)
            .map_err(TensorFileError::write(&self.path))
    }

    /// Syncs the file, gives it its name, and syncs the folder.
    ///
    /// # Errors
    /// [`TensorFileError::Write`].
    pub fn commit(mut self) -> Result<(), TensorFileError> {
        self.sync()?;
        self.publish()
    }

    /// Makes the content durable.
    pub(crate) fn sync(&mut self) -> Result<(), TensorFileError> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().0.as_file().sync_all())
            .map_err(TensorFileError::write(&self.path))
    }

    /// Gives the file, which was [synced](Self::sync), its name.
    pub(crate) fn publish(self) -> Result<(), TensorFileError> {
        let Self { path, file } = self;
        file.into_inner()
            .map_err(|error| error.into_error())
            .and_then(|Hidden(file)| {
                inherit_permissions(&path, &file)?;
                file.persist(&path).map_err(|error| error.error)
            })
            .and_then(|_| sync_dir(parent(&path)))
            .map_err(TensorFileError::write(&path))
    }
}

/// The end of the name of a file that is being written.
const TEMPORARY_END: &str = ".tmp";

/// Returns whether `path` is called as a file that is being written.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().ends_with(TEMPORARY_END)
}

/// Makes a file with a temporary name in the folder of `path`, so that a rename is enough to publish it.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut prefix = name.to_os_string();
    prefix.push(".");
    // Opened here, for tempfile's own files can be read by their owner only.
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(TEMPORARY_END)
        .make_in(parent(path), |path| File::create_new(path))
}

/// Gives `file` the permissions of the file it replaces, so that what was private stays so.
fn inherit_permissions(path: &Path, file: &NamedTempFile) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(replaced) if cfg!(unix) && replaced.is_file() => {
            file.as_file().set_permissions(replaced.permissions())
        }
        _ => Ok(()),
    }
}
