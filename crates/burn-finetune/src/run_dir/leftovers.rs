//! What a process that was killed could not remove.

use super::checkpoint::UNFINISHED;
use super::{CHECKPOINTS, EVALUATIONS_FILE, SETTINGS_FILE};
use crate::error::FinetuneError;
use burn_qlora::peft;
use std::fs;
use std::io;
use std::path::Path;
use tensor_files::LockedFile;

/// Removes it from the folder of a run whose lock is held: half-written files and checkpoints, and pages. What is not
/// the program's own is left alone.
pub(super) fn remove(run: &Path) -> Result<(), FinetuneError> {
    let files = [
        SETTINGS_FILE,
        EVALUATIONS_FILE,
        peft::CONFIG_FILE,
        peft::WEIGHTS_FILE,
    ];
    for file in files {
        LockedFile::remove_unfinished(&run.join(file))?;
    }
    #[cfg(feature = "flex")]
    {
        let pages = run.join(super::PAGE_FILE);
        if burn_paged::is_page_file(&pages) {
            removed(&pages, fs::remove_file(&pages))?;
        }
    }
    let folder = run.join(CHECKPOINTS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(FinetuneError::Read {
                path: folder,
                source,
            });
        }
    };
    for entry in entries.filter_map(Result::ok) {
        let unfinished = |name: &str| name.starts_with(UNFINISHED);
        if entry.file_name().to_str().is_some_and(unfinished) && entry.path().is_dir() {
            removed(&entry.path(), fs::remove_dir_all(entry.path()))?;
        }
    }
    Ok(())
}

fn removed(path: &Path, result: io::Result<()>) -> Result<(), FinetuneError> {
    result.map_err(|error| FinetuneError::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
