//! Tokenised rows, of which none stays in memory but the one that is asked for.

use crate::data::counts::Counts;
use crate::data::fingerprint::Fingerprint;
use crate::data::row::Row;
use crate::data::spill::{Spill, Stored};
use crate::error::FinetuneError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Bytes of a row's entry in the index.
pub const ENTRY: usize = 24;
/// Set beside the number of boundaries of a row that comes from the same example as the one before it.
const GOES_ON: u32 = 1 << 31;

/// What the index says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where its bytes begin.
    pub offset: u64,
    /// Its tokens.
    pub len: u32,
    /// The sequences in it after the first.
    pub more: u32,
    /// Whether it comes from the same example as the row before it.
    pub goes_on: bool,
    /// Where the example is.
    pub origin: Origin,
}

/// Where an example comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file's place among the files from 1; 0 for none.
    pub file: u32,
    /// The line in it from 1.
    pub line: u32,
}

impl Entry {
    fn bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let flag = if self.goes_on { GOES_ON } else { 0 };
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.more | flag).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.origin.file.to_le_bytes());
        bytes[20..].copy_from_slice(&self.origin.line.to_le_bytes());
        bytes
    }

    fn of(bytes: [u8; ENTRY]) -> Self {
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let more = number(12);
        Self {
            offset: u64::from(number(0)) | u64::from(number(4)) << 32,
            len: number(8),
            more: more & !GOES_ON,
            goes_on: more & GOES_ON != 0,
            origin: Origin {
                file: number(16),
                line: number(20),
            },
        }
    }

    /// Returns the bytes that the row takes: ids, a bit for each that is learnt, and boundaries.
    pub fn row_bytes(self) -> u64 {
        u64::from(self.len) * 4 + u64::from(self.len).div_ceil(8) + u64::from(self.more) * 4
    }
}

/// Rows by their place.
#[derive(Debug)]
pub struct RowStore {
    /// The rows, one behind the other.
    pub rows: Stored,
    /// An [`Entry`] a row.
    pub index: Stored,
    /// What is known of them.
    pub summary: Summary,
}

/// What is known of rows without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The tokens of the longest.
    pub longest: usize,
    /// The sequences in them.
    pub sequences: usize,
    /// Their hash.
    pub fingerprint: u64,
    /// The files they come from.
    pub files: Vec<String>,
    /// What became of the examples.
    pub counts: Counts,
}

impl RowStore {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        (self.index.len() / ENTRY as u64) as usize
    }

    /// Returns what the index says of the row at `place`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn entry(&self, place: usize) -> Result<Entry, FinetuneError> {
        let mut bytes = [0; ENTRY];
        let found = self.index.read_at((place * ENTRY) as u64, &mut bytes)?;
        assert!(found, "row {place} of {}", self.len());
        Ok(Entry::of(bytes))
    }

    /// Returns what the index says of all rows in their order.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, FinetuneError>> + '_ {
        self.index.items(0).map(|bytes| bytes.map(Entry::of))
    }

    /// Returns the row that `entry` speaks of; `None` when there are no such bytes, or they are no row.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn read(&self, entry: Entry) -> Result<Option<Row>, FinetuneError> {
        if entry.row_bytes() > self.rows.len() {
            return Ok(None);
        }
        let mut bytes = vec![0; entry.row_bytes() as usize];
        if !self.rows.read_at(entry.offset, &mut bytes)? {
            return Ok(None);
        }
        let len = entry.len as usize;
        let (ids, rest) = bytes.split_at(4 * len);
        let (learn, more) = rest.split_at(len.div_ceil(8));
        let more: Vec<usize> = numbers(more).map(|place| place as usize).collect();
        if !more.is_sorted() || more.last().is_some_and(|last| *last > len) {
            return Ok(None);
        }
        let learn = (0..len).map(|at| learn[at / 8] >> (at % 8) & 1 == 1);
        Ok(Some(Row::packed(
            numbers(ids).collect(),
            learn.collect(),
            more,
        )))
    }

    /// Returns the row at `place`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`]; [`FinetuneError::Malformed`] when the file was changed since it was opened.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, place: usize) -> Result<Row, FinetuneError> {
        let row = self.read(self.entry(place)?)?;
        row.ok_or_else(|| FinetuneError::Malformed {
            path: self.rows.path(),
            expected: "file of rows",
            reason: "it was changed while it was in use".into(),
        })
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Appends a row's bytes.
fn append(row: &Row, bytes: &mut Vec<u8>) {
    bytes.extend(row.ids.iter().flat_map(|id| id.to_le_bytes()));
    let bits = row.learn.chunks(8).map(|learn| {
        let bits = learn.iter().enumerate();
        bits.fold(0, |byte, (at, learn)| byte | u8::from(*learn) << at)
    });
    bytes.extend(bits);
    let starts = row.sequences().skip(1).map(|sequence| sequence.start);
    bytes.extend(starts.flat_map(|start| (start as u32).to_le_bytes()));
}

/// Rows that come one by one.
#[derive(Debug)]
pub struct RowWriter {
    rows: Spill,
    index: Spill,
    buffer: Vec<u8>,
    longest: usize,
    sequences: usize,
    fingerprint: Fingerprint,
}

impl RowWriter {
    /// Returns one without rows. What is too much for memory goes to nameless files in `dir`.
    pub fn into_dir(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            rows: Spill::into_dir(&dir),
            index: Spill::into_dir(dir),
            buffer: Vec::new(),
            longest: 0,
            sequences: 0,
            fingerprint: Fingerprint::default(),
        }
    }

    /// Keeps `limit` bytes in memory at most, of rows and of index.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Self {
        Self {
            rows: self.rows.with_limit(limit),
            index: self.index.with_limit(limit),
            ..self
        }
    }

    /// Returns the number of rows so far.
    pub fn len(&self) -> usize {
        (self.index.len() / ENTRY as u64) as usize
    }

    /// Appends a row; `goes_on` says that it comes from the same example as the one before.
    ///
    /// # Errors
    /// [`FinetuneError::Write`]; [`FinetuneError::InvalidConfig`] for more rows than can be counted.
    pub fn push(&mut self, row: &Row, origin: Origin, goes_on: bool) -> Result<(), FinetuneError> {
        let (Ok(len), Ok(_)) = (u32::try_from(row.len()), u32::try_from(self.len() + 1)) else {
            return Err(FinetuneError::InvalidConfig {
                field: "data",
                value: format!("row {} with {} tokens", self.len() + 1, row.len()),
                expected: "fewer than 4294967296 rows of fewer tokens",
            });
        };
        let entry = Entry {
            offset: self.rows.len(),
            len,
            more: row.sequences().skip(1).count() as u32,
            goes_on,
            origin,
        };
        self.buffer.clear();
        append(row, &mut self.buffer);
        self.longest = self.longest.max(row.len());
        self.sequences += 1 + entry.more as usize;
        self.fingerprint.add(row);
        self.rows.write(&self.buffer)?;
        self.index.write(&entry.bytes())
    }

    /// Ends the writing; `files` are those that origins name, `counts` say what became of
    /// the examples.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn finish(self, files: Vec<String>, counts: Counts) -> Result<RowStore, FinetuneError> {
        Ok(RowStore {
            rows: self.rows.finish()?,
            index: self.index.finish()?,
            summary: Summary {
                longest: self.longest,
                sequences: self.sequences,
                fingerprint: self.fingerprint.value(),
                files,
                counts,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every length around a byte's bits, some of several sequences.
    fn rows() -> Vec<Row> {
        let row = |len: u32| {
            let ids = (0..len).map(|at| at * 0x0101_0101 + len).collect();
            let mut row = Row::new(
                ids,
                (0..len).map(|at| (at + len).is_multiple_of(3)).collect(),
            );
            if len % 4 == 1 {
                row.append(&Row::all(vec![u32::MAX; 3]));
                row.append(&Row::all(vec![7]));
            }
            row
        };
        (0..20).map(row).collect()
    }

    fn origin(place: usize) -> Origin {
        Origin {
            file: 1,
            line: 3 * place as u32,
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        for limit in [0, 200, 1 << 20] {
            let mut writer = RowWriter::into_dir(dir.path()).with_limit(limit);
            for (place, row) in rows().iter().enumerate() {
                writer.push(row, origin(place), place % 5 == 2).unwrap();
            }
            let store = writer.finish(Vec::new(), Counts::default()).unwrap();
            assert_eq!(store.len(), 20);
            for (place, row) in rows().iter().enumerate().rev() {
                assert_eq!(&store.row(place).unwrap(), row, "{limit} {place}");
            }
            let entries: Vec<_> = store.entries().map(Result::unwrap).collect();
            for (place, entry) in entries.iter().enumerate() {
                assert_eq!(entry.goes_on, place % 5 == 2);
                assert_eq!(entry.origin, origin(place));
                assert_eq!(*entry, store.entry(place).unwrap());
            }
            let beyond = Entry {
                len: u32::MAX,
                ..entries[3]
            };
            assert_eq!(store.read(beyond).unwrap(), None);
        }
    }
}
