//! The rows of files.

use crate::data::columns::Columns;
use crate::data::encode::{Encoded, RowEncoder};
use crate::data::example::Example;
use crate::data::source::{self, Content, Fault, Record, Share, Utf8};
use crate::data::text::{self, Windows};
use crate::data::verdict::ExampleKind;
use crate::error::{FinetuneError, Place, RowProblem};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

/// Takes what became of an example, and may end the reading.
pub type Push<'a> = dyn FnMut(Place, Result<Encoded, RowProblem>) -> Result<(), FinetuneError> + 'a;

/// Most columns that are remembered as not read; of endless names a warning tells a few.
const UNREAD: usize = 1000;

/// Hands the rows of a file to `push`, one example at a time, and returns the columns that were not read.
///
/// # Errors
/// A file that cannot be read or holds nothing, [`FinetuneError::RowLength`] for a length under 2, and those of `push`.
pub fn read(
    path: &Path,
    share: Share,
    columns: &Columns,
    encoder: &RowEncoder<'_>,
    push: &mut Push<'_>,
) -> Result<BTreeSet<String>, FinetuneError> {
    if encoder.max_len < 2 {
        return Err(FinetuneError::RowLength {
            value: encoder.max_len,
            reason: "a row needs a token and its successor".into(),
        });
    }
    match source::open(path, columns).map_err(|fault| fault.of(path))? {
        Content::Text(_) if columns.kind() != ExampleKind::Texts => Err(FinetuneError::Format {
            path: path.to_owned(),
            reason: "a text holds no preferences; give rows, or learn it with --objective sft"
                .into(),
        }),
        Content::Text(text) => {
            read_text(path, text, share, encoder, push)?;
            Ok(BTreeSet::new())
        }
        Content::Rows { rows, unread } => {
            let mut unread: BTreeSet<String> = unread.into_iter().collect();
            let mut encode = |record: &Record| {
                let (example, others) = Example::read(&record.value, columns)?;
                if unread.len() < UNREAD {
                    unread.extend(others);
                }
                encoder.example(example)
            };
            read_rows(path, rows, share, &mut encode, push)?;
            Ok(unread)
        }
    }
}

fn read_text(
    path: &Path,
    mut text: Utf8<impl Read>,
    mut share: Share,
    encoder: &RowEncoder<'_>,
    push: &mut Push<'_>,
) -> Result<(), FinetuneError> {
    let mut is_empty = true;
    let read_error = |source| Fault::Read(source).of(path);
    text::read(
        &mut text,
        encoder,
        Windows::default(),
        &read_error,
        &mut |place, encoded| {
            is_empty = false;
            let Ok(encoded) = encoded else {
                return push(place, encoded);
            };
            for _ in 0..share.next() {
                push(place, Ok(encoded.clone()))?;
            }
            Ok(())
        },
    )?;
    if is_empty {
        return Err(no_data(path, "a text needs at least two tokens"));
    }
    Ok(())
}

fn read_rows(
    path: &Path,
    rows: impl Iterator<Item = Result<Record, Fault>>,
    mut share: Share,
    encode: &mut dyn FnMut(&Record) -> Result<Encoded, RowProblem>,
    push: &mut Push<'_>,
) -> Result<(), FinetuneError> {
    let mut is_empty = true;
    for record in rows {
        is_empty = false;
        let record = match record {
            Ok(record) => record,
            Err(Fault::Row(place, problem)) => {
                push(place, Err(problem))?;
                continue;
            }
            Err(fault) => return Err(fault.of(path)),
        };
        let times = share.next();
        if times == 0 {
            continue;
        }
        let encoded = encode(&record);
        if let Ok(encoded) = &encoded {
            for _ in 1..times {
                push(record.place, Ok(encoded.clone()))?;
            }
        }
        push(record.place, encoded)?;
    }
    if is_empty {
        return Err(no_data(path, "there is no row in it"));
    }
    Ok(())
}

fn no_data(path: &Path, reason: &'static str) -> FinetuneError {
    FinetuneError::NoData {
        path: path.to_owned(),
        reason,
    }
}
