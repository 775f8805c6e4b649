//! The rows of a file.

use crate::data::encode::{Encoded, RowEncoder};
use crate::data::text::{self, Windows};
use crate::error::{FinetuneError, RowProblem};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Takes what became of the example on a line, and may end the reading.
pub type Push<'a> = dyn FnMut(usize, Result<Encoded, RowProblem>) -> Result<(), FinetuneError> + 'a;

/// Hands the rows of a file to `push`, one example at a time.
///
/// # Errors
/// [`FinetuneError::Read`], [`FinetuneError::RowLength`] for a length under 2, and those of `push`.
pub fn read(
    path: &Path,
    encoder: &RowEncoder<'_>,
    push: &mut Push<'_>,
) -> Result<(), FinetuneError> {
    if encoder.max_len < 2 {
        return Err(FinetuneError::RowLength {
            value: encoder.max_len,
            reason: "a row needs a token and its successor".into(),
        });
    }
    let mut file = File::open(path).map_err(|source| read_error(path, source))?;
    if is_text(path) {
        let read_error = |source| read_error(path, source);
        text::read(&mut file, encoder, Windows::default(), &read_error, push)
    } else {
        read_json_lines(path, file, encoder, push)
    }
}

/// Returns whether the file is one text.
pub fn is_text(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

fn read_json_lines(
    path: &Path,
    file: File,
    encoder: &RowEncoder<'_>,
    push: &mut Push<'_>,
) -> Result<(), FinetuneError> {
    for (place, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| read_error(path, source))?;
        // Editors on Windows put a byte-order mark at the start of a file.
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            push(place + 1, encoder.json_line(line))?;
        }
    }
    Ok(())
}

fn read_error(path: &Path, source: std::io::Error) -> FinetuneError {
    FinetuneError::Read {
        path: path.to_owned(),
        source,
    }
}
