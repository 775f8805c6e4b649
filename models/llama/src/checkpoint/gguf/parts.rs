//! A file that llama-gguf-split cut into parts, as one.

use std::collections::HashSet;

use super::{GgufFile, Part};
use crate::checkpoint::files;
use crate::checkpoint::names::{self, GgufName};
use crate::error::DecoderError;

/// Returns which part of a split file it is; `None` for a whole one.
///
/// # Errors
/// Numbers that cannot be.
pub(super) fn place(part: &Part) -> Result<Option<names::Part>, DecoderError> {
    let keys = part.metadata();
    let count = keys.integer("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(None);
    }
    let key = "split.no";
    let index = keys.integer(key)?.ok_or_else(|| keys.missing(key))?;
    if index >= count {
        let expected = format!("below `split.count`, {count}");
        return Err(keys.invalid(key, index, &expected));
    }
    let number = index + 1;
    Ok(Some(names::Part { number, count }))
}

/// Opens the parts beside `given`, which is at `place`.
///
/// # Errors
/// [`DecoderError::NotAModel`] for a file that does not have the name of its place; [`DecoderError::MissingFile`]; parts
/// that do not belong together.
pub(super) fn join(given: Part, place: names::Part) -> Result<GgufFile, DecoderError> {
    let path = given.path().to_path_buf();
    let file_name = path.file_name().and_then(|name| name.to_str());
    let name = file_name.and_then(GgufName::of);
    let Some(name) = name.filter(|name| name.part == Some(place)) else {
        let reason = format!(
            "part {} of {} of a split GGUF file, but its name does not say so; call it {}, beside the other parts, or join \
             them with llama-gguf-split --merge",
            place.number,
            place.count,
            place.gguf("NAME")
        );
        return Err(DecoderError::not_a_model(&path, reason));
    };
    let mut given = Some(given);
    let mut parts = Vec::new();
    for number in 1..=place.count {
        let at = names::Part { number, ..place };
        match given.take_if(|_| at == place) {
            Some(part) => parts.push(part),
            None => {
                let path = path.with_file_name(at.gguf(name.stem));
                if !files::is_there(&path)? {
                    return Err(DecoderError::MissingFile {
                        path,
                        hint: format!(
                            "part {number} of {} of the GGUF file; fetch it, all parts are needed",
                            place.count
                        ),
                    });
                }
                let part = Part::open(&path)?;
                if self::place(&part)? != Some(at) {
                    let reason = format!(
                        "it is not part {number} of {} of a split GGUF file; fetch all parts again",
                        place.count
                    );
                    return Err(DecoderError::malformed(&path, reason));
                }
                parts.push(part);
            }
        }
    }
    let first = parts.remove(0);
    check(GgufFile { first, rest: parts })
}

/// Refuses parts that have a tensor twice, or fewer than the first says.
fn check(file: GgufFile) -> Result<GgufFile, DecoderError> {
    let mut names = HashSet::new();
    for part in file.parts() {
        for name in part.table.tensors.keys() {
            if !names.insert(name) {
                let reason =
                    format!("tensor `{name}` is in another part, too; fetch all parts again");
                return Err(DecoderError::malformed(part.path(), reason));
            }
        }
    }
    let keys = file.metadata();
    let key = "split.tensors.count";
    if let Some(expected) = keys.integer(key)?
        && expected != names.len()
    {
        let found = format!("the parts have {} tensors", names.len());
        let reason = format!("`{key}` is {expected}, but {found}; fetch all parts again");
        return Err(DecoderError::malformed(file.path(), reason));
    }
    Ok(file)
}
