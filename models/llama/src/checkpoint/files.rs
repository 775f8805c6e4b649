//! Files of a checkpoint, found and read with reasons that are true: what cannot be looked at is not said to be missing.

use std::fs::Metadata;
use std::io::{self, Read};
use std::path::Path;

use tensor_files::InputFile;

use crate::error::DecoderError;

/// Bytes by which kinds of files are told apart.
const START: u64 = 24;

/// Returns whether there is something under `path`.
///
/// # Errors
/// [`DecoderError::Io`] where that cannot be known; [`DecoderError::Malformed`] for a link to what is not there.
pub(super) fn is_there(path: &Path) -> Result<bool, DecoderError> {
    match metadata(path) {
        Ok(_) => Ok(true),
        Err(DecoderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Returns what the file system says of `path`, links followed.
pub(super) fn metadata(path: &Path) -> Result<Metadata, DecoderError> {
    let source = match std::fs::metadata(path) {
        Ok(metadata) => return Ok(metadata),
        Err(source) => source,
    };
    let missing = source.kind() == io::ErrorKind::NotFound;
    match std::fs::read_link(path) {
        Ok(target) if missing => Err(DecoderError::malformed(
            path,
            format!(
                "a link to {}, which is not there; fetch the file again",
                target.display()
            ),
        )),
        _ => Err(DecoderError::io(path)(source)),
    }
}

/// Returns the names in a directory in their order; those that are not UTF-8 are none of a checkpoint's.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, DecoderError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(DecoderError::io(directory))? {
        let entry = entry.map_err(DecoderError::io(directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the first bytes of a file, by which [`tensor_files::recognize`] knows it.
pub(super) fn start(path: &Path) -> Result<Vec<u8>, DecoderError> {
    let input = InputFile::open(path)?;
    let mut start = vec![0; input.len().min(START) as usize];
    input.read_at(0, &mut start)?;
    Ok(start)
}

/// Reads a file of text.
pub(super) fn read_text(path: &Path) -> Result<String, DecoderError> {
    text_of(path, read(path)?)
}

/// Reads a file of text of `most` bytes or fewer.
///
/// # Errors
/// As for [`read_text`]; [`DecoderError::Malformed`] for a longer one, of which nothing is read.
pub(super) fn read_short_text(path: &Path, most: u64) -> Result<String, DecoderError> {
    let len = InputFile::open(path)?.len();
    if len > most {
        let reason = format!("it has {len} bytes, and {most} are the most it may have");
        return Err(DecoderError::malformed(path, reason));
    }
    read_text(path)
}

fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String, DecoderError> {
    // Windows' editors put it in front.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let text = str::from_utf8(text).map_err(|_| {
        let reason = match tensor_files::recognize(&bytes) {
            Some(what) => format!("not a text but {what}"),
            None => "not valid UTF-8; save it as UTF-8".into(),
        };
        DecoderError::malformed(path, reason)
    })?;
    Ok(text.to_owned())
}

/// Reads a file whole, if it is what it should be and no pointer to it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DecoderError> {
    let input = InputFile::open(path)?;
    let mut bytes = Vec::new();
    input
        .reader()
        .read_to_end(&mut bytes)
        .map_err(DecoderError::io(path))?;
    let is_text_of_another_kind = bytes.starts_with(b"version") || bytes.starts_with(b"<");
    match tensor_files::recognize(&bytes) {
        Some(what) if is_text_of_another_kind => Err(DecoderError::malformed(path, what)),
        _ if bytes.iter().all(u8::is_ascii_whitespace) => Err(DecoderError::malformed(
            path,
            "empty; fetch it again, or remove it if the model needs none",
        )),
        _ => Ok(bytes),
    }
}
