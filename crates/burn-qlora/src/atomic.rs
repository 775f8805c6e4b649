//! Files that are complete or not there.
//!
//! Standing on burn-pack's [`AtomicFile`]: a scratch file beside the destination, synced, then renamed.

use burn_pack::AtomicFile;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that could not be written. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {reason}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the operating system said.
    pub reason: String,
}

impl From<WriteError> for crate::LoraError {
    fn from(error: WriteError) -> Self {
        Self::Write {
            path: error.path,
            reason: error.reason,
        }
    }
}

/// What writes the content of a file.
pub type Content<'a> = Box<dyn FnOnce(&mut File) -> io::Result<()> + 'a>;

/// The content that is these bytes.
pub fn bytes(bytes: &[u8]) -> Content<'_> {
    Box::new(|file| file.write_all(bytes))
}

/// Writes several files of one folder, all complete and synced before the first takes its name, so that
/// a full disk leaves the folder as it was. The folder is made when it is missing.
///
/// # Errors
/// [`WriteError`] naming the file that failed.
pub fn write_files(dir: &Path, files: Vec<(&str, Content<'_>)>) -> Result<(), WriteError> {
    let failed = |path: &Path, reason: String| WriteError {
        path: path.to_owned(),
        reason,
    };
    let made = make_dir(dir).map_err(|error| failed(dir, error.to_string()))?;
    let write_all = || {
        let mut scratches = Vec::with_capacity(files.len());
        for (name, content) in files {
            let path = dir.join(name);
            let (scratch, mut file) =
                AtomicFile::create(&path).map_err(|error| failed(&path, error.to_string()))?;
            content(&mut file)
                .and_then(|()| file.sync_all())
                .map_err(|error| failed(&path, error.to_string()))?;
            scratches.push((path, scratch));
        }
        for (path, scratch) in scratches {
            scratch
                .commit()
                .map_err(|error| failed(&path, error.to_string()))?;
        }
        Ok(())
    };
    let result = write_all();
    if result.is_err() && made {
        // Only an empty folder goes; anything in it is somebody's.
        let _ = std::fs::remove_dir(dir);
    }
    result
}

/// Writes one file with what `write` puts into it, as it comes. Its folder must be there.
///
/// # Errors
/// [`WriteError`], also for what `write` fails with.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), WriteError> {
    let failed = |reason: String| WriteError {
        path: path.to_owned(),
        reason,
    };
    let (scratch, mut file) =
        AtomicFile::create(path).map_err(|error| failed(error.to_string()))?;
    write(&mut file)
        .and_then(|()| file.sync_all())
        .map_err(|error| failed(error.to_string()))?;
    scratch.commit().map_err(|error| failed(error.to_string()))
}

/// Makes `dir` and says whether it was missing.
fn make_dir(dir: &Path) -> io::Result<bool> {
    if dir.is_dir() {
        return Ok(false);
    }
    std::fs::create_dir_all(dir)?;
    Ok(true)
}
