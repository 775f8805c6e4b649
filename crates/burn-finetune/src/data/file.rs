//! The rows of files.

use crate::data::dataset::Dataset;
use crate::data::encode::{Row, RowEncoder};
use crate::data::example::Example;
use crate::data::source::{self, Content, Record, Share, Sources, Utf8};
use crate::data::warnings::Warnings;
use crate::error::{FinetuneError, Place, RowProblem};
use std::io::Read;
use std::path::Path;

/// Reads files as [`Dataset::read`] says.
pub fn read(sources: &Sources, encoder: &RowEncoder<'_>) -> Result<Dataset, FinetuneError> {
    if encoder.max_len < 2 {
        return Err(FinetuneError::RowLength {
            value: encoder.max_len,
            reason: "a row needs a token and its successor".into(),
        });
    }
    let (files, mut warnings) = sources.files()?;
    let mut rows = Vec::new();
    for (place, file) in files.iter().enumerate() {
        let path = file.path();
        let share = Share::new(file.weight(), place);
        let content = source::open(path, sources.columns()).map_err(|fault| fault.of(path))?;
        match content {
            Content::Text(text) => rows.extend(read_text(path, text, share, encoder)?),
            Content::Rows {
                rows: records,
                unread,
            } => {
                let mut told = Warnings::new(path, unread);
                let mut reader = RecordReader {
                    path,
                    sources,
                    encoder,
                    share,
                    rows: &mut rows,
                    warnings: &mut told,
                };
                reader.read(records)?;
                warnings.extend(told.told());
            }
        }
    }
    match files.first() {
        Some(file) if rows.is_empty() => Err(no_data(
            file.path(),
            "the weights take none of the rows; raise them",
        )),
        _ => Ok(Dataset::from_rows(rows).with_warnings(warnings)),
    }
}

fn read_text(
    path: &Path,
    mut text: Utf8<impl Read>,
    mut share: Share,
    encoder: &RowEncoder<'_>,
) -> Result<Vec<Row>, FinetuneError> {
    let mut whole = String::new();
    text.read_to_string(&mut whole)
        .map_err(|source| FinetuneError::Read {
            path: path.to_owned(),
            source,
        })?;
    let rows = encoder
        .pack(&whole)
        .map_err(|problem| line_error(path, Place::Line(1), problem))?;
    if rows.is_empty() {
        return Err(no_data(path, "a text needs at least two tokens"));
    }
    let rows = rows.into_iter();
    Ok(rows
        .flat_map(|row| {
            let times = share.next();
            std::iter::repeat_n(row, times)
        })
        .collect())
}

/// Turns the records of a file into rows.
struct RecordReader<'a, 'e> {
    path: &'a Path,
    sources: &'a Sources,
    encoder: &'a RowEncoder<'e>,
    share: Share,
    rows: &'a mut Vec<Row>,
    warnings: &'a mut Warnings,
}

impl RecordReader<'_, '_> {
    fn read(
        &mut self,
        records: impl Iterator<Item = Result<Record, source::Fault>>,
    ) -> Result<(), FinetuneError> {
        let mut is_empty = true;
        for record in records {
            let record = record.map_err(|fault| fault.of(self.path))?;
            is_empty = false;
            let times = self.share.next();
            if times > 0 {
                self.record(&record, times)
                    .map_err(|problem| line_error(self.path, record.place, problem))?;
            }
        }
        if is_empty {
            return Err(no_data(self.path, "there is no row in it"));
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, times: usize) -> Result<(), RowProblem> {
        let (example, unread) = Example::read(&record.value, self.sources.columns())?;
        self.warnings.add_unread(unread);
        let encoded = self.encoder.example(example)?;
        for warning in encoded.warnings {
            self.warnings.add(record.place, warning);
        }
        for _ in 1..times {
            self.rows.extend(encoded.rows.iter().cloned());
        }
        self.rows.extend(encoded.rows);
        Ok(())
    }
}

fn no_data(path: &Path, reason: &'static str) -> FinetuneError {
    FinetuneError::NoData {
        path: path.to_owned(),
        reason,
    }
}

fn line_error(path: &Path, line: Place, problem: RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
