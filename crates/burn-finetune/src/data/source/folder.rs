use super::format;
use crate::error::FinetuneError;
use std::path::{Path, PathBuf};

/// Returns the files of a folder that are read, by their names, and what the user should hear of the others. Hidden ones
/// are left out, and so are folders.
///
/// # Errors
/// A folder that cannot be read, or has no file that is.
pub fn files(folder: &Path) -> Result<(Vec<PathBuf>, Option<String>), FinetuneError> {
    let read_error = |source| FinetuneError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_file() && format::is_read(&name) {
            files.push(path);
        } else {
            others.push(name);
        }
    }
    files.sort();
    others.sort();
    if files.is_empty() {
        let holds = if others.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("it holds {}", listed(&others))
        };
        return Err(FinetuneError::Format {
            path: folder.to_owned(),
            reason: format!(
                "the folder has no file that is read ({holds}); {}",
                format::READ
            ),
        });
    }
    let told = (!others.is_empty()).then(|| format!("not read: {}", listed(&others)));
    Ok((files, told))
}

fn listed(names: &[String]) -> String {
    const TOLD: usize = 8;
    let mut text = names
        .iter()
        .take(TOLD)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > TOLD {
        text.push_str(&format!(" and {} more", names.len() - TOLD));
    }
    text
}
