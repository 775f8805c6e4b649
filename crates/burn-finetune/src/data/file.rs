//! The rows of a file.

use super::{Row, RowEncoder};
use crate::FinetuneError;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// All rows of a data file, tokenised.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    rows: Vec<Row>,
}

impl Dataset {
    /// Reads a file: `.txt` as one text cut into rows ([`RowEncoder::pack`]), anything else as JSONL, one
    /// row a line ([`RowEncoder::json_line`]); blank lines are skipped.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Line`] with the line's number,
    /// [`FinetuneError::NoData`], and [`FinetuneError::RowLength`] for a length under 2.
    pub fn read(path: &Path, encoder: &RowEncoder<'_>) -> Result<Self, FinetuneError> {
        if encoder.max_len < 2 {
            return Err(FinetuneError::RowLength {
                value: encoder.max_len,
                reason: "a row needs a token and its successor".into(),
            });
        }
        let is_text = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
        let rows = if is_text {
            read_text(path, encoder)?
        } else {
            read_json_lines(path, encoder)?
        };
        if rows.is_empty() {
            return Err(FinetuneError::NoData {
                path: path.to_owned(),
                reason: if is_text {
                    "a text needs at least two tokens"
                } else {
                    "every line is blank; a row is a JSON object on a line of its own"
                },
            });
        }
        Ok(Self { rows })
    }

    /// A data set of given rows.
    pub fn from_rows(rows: Vec<Row>) -> Self {
        Self { rows }
    }

    /// The rows in the order of the file.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Length of the longest row.
    pub fn longest(&self) -> usize {
        self.rows.iter().map(Row::len).max().unwrap_or(0)
    }

    /// A number that other rows, or the same in another order, do not have (FNV-1a over ids and targets): a
    /// run's settings hold it, so that resumption notices changed data.
    pub fn fingerprint(&self) -> u64 {
        let bytes = self.rows.iter().flat_map(|row| {
            let tokens = row.ids.iter().zip(&row.learn);
            let tokens = tokens
                .flat_map(|(id, learn)| (u64::from(*id) << 1 | u64::from(*learn)).to_le_bytes());
            tokens.chain([0xff])
        });
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// The first `max` rows.
    #[must_use]
    pub fn head(mut self, max: usize) -> Self {
        self.rows.truncate(max);
        self
    }
}

fn read_text(path: &Path, encoder: &RowEncoder<'_>) -> Result<Vec<Row>, FinetuneError> {
    let text = std::fs::read_to_string(path).map_err(|source| read_error(path, source))?;
    encoder
        .pack(&text)
        .map_err(|problem| line_error(path, 1, problem))
}

fn read_json_lines(path: &Path, encoder: &RowEncoder<'_>) -> Result<Vec<Row>, FinetuneError> {
    let file = File::open(path).map_err(|source| read_error(path, source))?;
    let mut rows = Vec::new();
    for (place, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| read_error(path, source))?;
        // Editors on Windows put a byte-order mark at the start of a file.
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let row = encoder
            .json_line(line)
            .map_err(|problem| line_error(path, place + 1, problem))?;
        rows.push(row);
    }
    Ok(rows)
}

fn read_error(path: &Path, source: std::io::Error) -> FinetuneError {
    FinetuneError::Read {
        path: path.to_owned(),
        source,
    }
}

fn line_error(path: &Path, line: usize, problem: crate::error::RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
