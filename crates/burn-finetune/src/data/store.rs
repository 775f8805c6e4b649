//! Tokenised rows, of which none stays in memory but the one that is asked for.

use crate::data::counts::Counts;
use crate::data::fingerprint::Fingerprint;
use crate::data::row::Row;
use crate::data::spill::{Spill, Stored};
use crate::data::verdict::{ExampleKind, Verdicts};
use crate::error::{FinetuneError, Place};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Bytes of a row's entry in the index.
pub const ENTRY: usize = 24;
/// Set beside the number of boundaries of a row that comes from the same example as the one before it.
const GOES_ON: u32 = 1 << 31;
/// Set there where the sequences are pairs.
const PAIRS: u32 = 1 << 30;
/// Set there where a bit for each sequence says whether it is desirable.
const LABELS: u32 = 1 << 29;

/// Set beside a place that is the number of a row.
const IS_ROW: u32 = 1 << 31;

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
    /// What it is an example of.
    pub kind: ExampleKind,
    /// Where the example is.
    pub origin: Origin,
}

/// Where an example comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The file's place among the files from 1; 0 for none.
    pub file: u32,
    /// Its place in it.
    pub place: Place,
}

impl Origin {
    /// Returns the place as four bytes: a line, or the number of a row, which counts more in an array.
    fn packed_place(self) -> u32 {
        let (number, flag) = match self.place {
            Place::Line(line) => (line, 0),
            Place::Element { row, .. } | Place::Row(row) => (row, IS_ROW),
        };
        u32::try_from(number).map_or(!IS_ROW, |number| number.min(!IS_ROW)) | flag
    }

    fn place_of(packed: u32) -> Place {
        let number = (packed & !IS_ROW) as usize;
        if packed & IS_ROW == 0 {
            Place::Line(number)
        } else {
            Place::Row(number)
        }
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            file: 0,
            place: Place::Line(0),
        }
    }
}

impl Entry {
    fn bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let kind = match self.kind {
            ExampleKind::Texts => 0,
            ExampleKind::Pairs => PAIRS,
            ExampleKind::Labelled => LABELS,
        };
        let flag = kind | if self.goes_on { GOES_ON } else { 0 };
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.more | flag).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.origin.file.to_le_bytes());
        bytes[20..].copy_from_slice(&self.origin.packed_place().to_le_bytes());
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
            more: more & !(GOES_ON | PAIRS | LABELS),
            goes_on: more & GOES_ON != 0,
            kind: match more & (PAIRS | LABELS) {
                0 => ExampleKind::Texts,
                PAIRS => ExampleKind::Pairs,
                _ => ExampleKind::Labelled,
            },
            origin: Origin {
                file: number(16),
                place: Origin::place_of(number(20)),
            },
        }
    }

    /// Returns the bytes that the row takes: ids, a bit for each that is learnt, boundaries, and a bit for each sequence that is
    /// labelled.
    pub fn row_bytes(self) -> u64 {
        let labels = match self.kind {
            ExampleKind::Labelled => self.sequences().div_ceil(8) as u64,
            ExampleKind::Texts | ExampleKind::Pairs => 0,
        };
        u64::from(self.len) * 4
            + u64::from(self.len).div_ceil(8)
            + u64::from(self.more) * 4
            + labels
    }

    /// Returns the number of its sequences.
    pub fn sequences(self) -> usize {
        1 + self.more as usize
    }

    /// Returns the number of examples in it.
    pub fn examples(self) -> usize {
        self.kind.examples(self.sequences())
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
    /// The tokens of the longest sequence in them.
    pub longest_sequence: usize,
    /// The examples in them.
    pub examples: usize,
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
        let (learn, rest) = rest.split_at(len.div_ceil(8));
        let (more, labels) = rest.split_at(4 * entry.more as usize);
        let more: Vec<usize> = numbers(more).map(|place| place as usize).collect();
        if !more.is_sorted() || more.last().is_some_and(|last| *last > len) {
            return Ok(None);
        }
        let bit = |bits: &[u8], at: usize| bits[at / 8] >> (at % 8) & 1 == 1;
        let learn = (0..len).map(|at| bit(learn, at));
        let verdicts = match entry.kind {
            ExampleKind::Texts => Verdicts::None,
            ExampleKind::Pairs => Verdicts::Pairs,
            ExampleKind::Labelled => {
                let labels = (0..entry.sequences()).map(|at| bit(labels, at));
                Verdicts::Labels(labels.collect())
            }
        };
        Ok(Some(Row::packed(
            numbers(ids).collect(),
            learn.collect(),
            more,
            verdicts,
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
    append_bits(&row.learn, bytes);
    let starts = row.sequences().skip(1).map(|sequence| sequence.start);
    bytes.extend(starts.flat_map(|start| (start as u32).to_le_bytes()));
    if let Verdicts::Labels(labels) = row.verdicts() {
        append_bits(labels, bytes);
    }
}

fn append_bits(flags: &[bool], bytes: &mut Vec<u8>) {
    bytes.extend(flags.chunks(8).map(|flags| {
        let bits = flags.iter().enumerate();
        bits.fold(0, |byte, (at, flag)| byte | u8::from(*flag) << at)
    }));
}

/// Rows that come one by one.
#[derive(Debug)]
pub struct RowWriter {
    rows: Spill,
    index: Spill,
    buffer: Vec<u8>,
    longest: usize,
    longest_sequence: usize,
    examples: usize,
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
            longest_sequence: 0,
            examples: 0,
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
            kind: row.verdicts().kind(),
            origin,
        };
        self.buffer.clear();
        append(row, &mut self.buffer);
        self.longest = self.longest.max(row.len());
        self.longest_sequence = self.longest_sequence.max(row.longest_sequence());
        self.examples += entry.examples();
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
                longest_sequence: self.longest_sequence,
                examples: self.examples,
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
            match len % 5 {
                3 if len % 4 != 1 => Row::pair(row, &Row::all(vec![9; 4])),
                4 if len % 4 != 1 => {
                    let mut row = row.labelled(len.is_multiple_of(2));
                    (0..len).for_each(|at| row.append(&Row::all(vec![at]).labelled(at % 3 == 1)));
                    row
                }
                _ => row,
            }
        };
        (0..20).map(row).collect()
    }

    fn origin(place: usize) -> Origin {
        Origin {
            file: 1,
            place: match place % 2 {
                0 => Place::Line(3 * place),
                _ => Place::Row(3 * place),
            },
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
