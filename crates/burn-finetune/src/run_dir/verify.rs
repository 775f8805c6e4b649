//! Whether the files of a checkpoint are as they were written.

use crate::error::FinetuneError;
use std::collections::BTreeMap;
use std::path::Path;
use tensor_files::Checksum;

/// Checks that the files of a checkpoint have their `checksums`, in hexadecimal by the file's name.
pub(super) fn check_files(
    folder: &Path,
    checksums: &BTreeMap<String, String>,
) -> Result<(), FinetuneError> {
    for (name, saved) in checksums {
        // The names are those of a file that may be damaged.
        if Path::new(name).components().count() != 1 || Path::new(name).file_name().is_none() {
            return Err(FinetuneError::damaged(
                folder,
                format!("state.json names the file {name:?}"),
            ));
        }
        let path = folder.join(name);
        let found = format!("{:016x}", Checksum::of_file(&path)?);
        if found != *saved {
            return Err(FinetuneError::damaged(
                &path,
                format!("its checksum is {found}, but was {saved} when it was saved"),
            ));
        }
    }
    Ok(())
}
