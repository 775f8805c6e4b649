//! A directory that appears whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::LlamaError;

/// A hidden directory beside its destination, renamed to it when complete and removed when dropped before.
pub(super) struct Staging {
    path: PathBuf,
    destination: PathBuf,
    published: bool,
}

impl Staging {
    /// Makes the directory; the destination must not exist or be empty.
    pub(super) fn new(destination: &Path) -> Result<Self, LlamaError> {
        match fs::read_dir(destination) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(LlamaError::OutputExists {
                        path: destination.to_path_buf(),
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(LlamaError::io(destination)(error)),
        }
        let name = destination.file_name().ok_or_else(|| {
            LlamaError::malformed(
                destination,
                "cannot be an output directory; give the name of a new one",
            )
        })?;
        let parent = parent(destination);
        fs::create_dir_all(parent).map_err(LlamaError::io(parent))?;
        let hidden = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let path = parent.join(hidden);
        fs::create_dir(&path).map_err(LlamaError::io(&path))?;
        Ok(Self {
            path,
            destination: destination.to_path_buf(),
            published: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), LlamaError> {
        let path = self.path.join(name);
        let mut file = File::create_new(&path).map_err(LlamaError::io(&path))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(LlamaError::io(&path))
    }

    pub(super) fn copy(&self, from: &Path) -> Result<(), LlamaError> {
        let bytes = fs::read(from).map_err(LlamaError::io(from))?;
        let name = from.file_name().unwrap_or_default();
        self.write(&name.to_string_lossy(), &bytes)
    }

    /// Gives the directory its name.
    pub(super) fn publish(mut self) -> Result<(), LlamaError> {
        sync_directory(&self.path)?;
        fs::rename(&self.path, &self.destination).map_err(LlamaError::io(&self.destination))?;
        self.published = true;
        sync_directory(parent(&self.destination))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Already failing: the first error is the one to report.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes names durable; only Unix can open a directory for it.
fn sync_directory(path: &Path) -> Result<(), LlamaError> {
    if cfg!(unix) {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(LlamaError::io(path))?;
    }
    Ok(())
}
