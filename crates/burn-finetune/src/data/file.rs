//! The rows of a file.

use crate::data::dataset::Dataset;
use crate::data::encode::{Row, RowEncoder};
use crate::error::{FinetuneError, RowProblem, RowWarning};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Reads a file as [`Dataset::read`] says.
pub fn read(path: &Path, encoder: &RowEncoder<'_>) -> Result<Dataset, FinetuneError> {
    if encoder.max_len < 2 {
        return Err(FinetuneError::RowLength {
            value: encoder.max_len,
            reason: "a row needs a token and its successor".into(),
        });
    }
    let is_text = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    let data = if is_text {
        Dataset::from_rows(read_text(path, encoder)?)
    } else {
        read_json_lines(path, encoder)?
    };
    if data.is_empty() {
        return Err(FinetuneError::NoData {
            path: path.to_owned(),
            reason: if is_text {
                "a text needs at least two tokens"
            } else {
                "every line is blank; a row is a JSON object on a line of its own"
            },
        });
    }
    Ok(data)
}

fn read_text(path: &Path, encoder: &RowEncoder<'_>) -> Result<Vec<Row>, FinetuneError> {
    let text = std::fs::read_to_string(path).map_err(|source| read_error(path, source))?;
    encoder
        .pack(&text)
        .map_err(|problem| line_error(path, 1, problem))
}

fn read_json_lines(path: &Path, encoder: &RowEncoder<'_>) -> Result<Dataset, FinetuneError> {
    let file = File::open(path).map_err(|source| read_error(path, source))?;
    let mut rows = Vec::new();
    let mut warnings = Warnings::default();
    for (place, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| read_error(path, source))?;
        // Editors on Windows put a byte-order mark at the start of a file.
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let encoded = encoder
            .json_line(line)
            .map_err(|problem| line_error(path, place + 1, problem))?;
        rows.extend(encoded.rows);
        for warning in encoded.warnings {
            warnings.add(place + 1, warning);
        }
    }
    Ok(Dataset::from_rows(rows).with_warnings(warnings.told(path)))
}

/// The first warning of each kind with its line, and the number of its lines.
#[derive(Default)]
struct Warnings(Vec<(usize, RowWarning, usize)>);

impl Warnings {
    fn add(&mut self, line: usize, warning: RowWarning) {
        let kind = std::mem::discriminant(&warning);
        let known = self.0.iter_mut();
        let mut known = known.filter(|(_, first, _)| std::mem::discriminant(first) == kind);
        match known.next() {
            Some((_, _, count)) => *count += 1,
            None => self.0.push((line, warning, 1)),
        }
    }

    fn told(self, path: &Path) -> Vec<String> {
        let told = |(line, warning, count): (usize, RowWarning, usize)| {
            let first = format!("{}:{line}: {warning}", path.display());
            match count - 1 {
                0 => first,
                more => format!("{first} ({} such lines)", more + 1),
            }
        };
        self.0.into_iter().map(told).collect()
    }
}

fn read_error(path: &Path, source: std::io::Error) -> FinetuneError {
    FinetuneError::Read {
        path: path.to_owned(),
        source,
    }
}

fn line_error(path: &Path, line: usize, problem: RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
