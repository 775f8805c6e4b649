//! What a reference has given so far, in a file that grows by a piece a batch, so that a process which is killed loses none but
//! the last.
//!
//! ```text
//! magic        16 bytes
//! key          8 bytes, little-endian: the hash of all that decides the values
//! pieces       each: its length (8 bytes), the place of its first row (8 bytes), for each row the number of its values (8 bytes)
//!              and the values (f64), and the XXH3 of all that (8 bytes)
//! ```

use super::asking::Answers;
use crate::error::FinetuneError;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tensor_files::Checksum;

const MAGIC: [u8; 16] = *b"burn-qlora part\n";
/// Bytes before the first piece.
const HEAD: u64 = 24;

/// An open file of pieces.
pub(super) struct Pieces {
    file: File,
    path: PathBuf,
}

impl Pieces {
    /// Returns where the pieces of what is to lie at `file` lie.
    pub(super) fn beside(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(".part");
        name.into()
    }

    /// Opens the file at `path` and adds what it has of rows to `answers`. What was kept under another key than `key` is gone,
    /// and so is everything from the first piece on that is not whole or not of the next rows of `rows`.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], and as [`Answers::push`].
    pub(super) fn open(
        path: PathBuf,
        key: u64,
        rows: usize,
        answers: &mut Answers,
    ) -> Result<Self, FinetuneError> {
        let written = |error: io::Error| write_error(&path, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(written)?;
        let mut whole = 0;
        if is_of(&mut file, key).map_err(written)? {
            let mut left = file.metadata().map_err(written)?.len() - HEAD;
            let mut from = BufReader::new(&file);
            whole = HEAD;
            while let Some(piece) = next(&mut from, left).map_err(written)? {
                let Some(values) = piece.values(answers.rows(), rows) else {
                    break;
                };
                values.iter().try_for_each(|values| answers.push(values))?;
                left -= piece.len();
                whole += piece.len();
            }
        }
        file.set_len(whole).map_err(written)?;
        file.seek(SeekFrom::Start(whole)).map_err(written)?;
        if whole == 0 {
            let head = [&MAGIC[..], &key.to_le_bytes()].concat();
            file.write_all(&head).map_err(written)?;
        }
        Ok(Self { file, path })
    }

    /// Appends what the reference gave a batch whose first row is at `first`.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub(super) fn append(&mut self, first: usize, rows: &[Vec<f64>]) -> Result<(), FinetuneError> {
        let mut bytes = (first as u64).to_le_bytes().to_vec();
        for values in rows {
            bytes.extend((values.len() as u64).to_le_bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        let piece = Piece(bytes).framed();
        // One write a piece: the end of the process leaves it whole or tells that it is not.
        self.file
            .write_all(&piece)
            .map_err(|error| write_error(&self.path, &error))
    }
}

/// The place of the first row, and for each row the number of its values and the values.
struct Piece(Vec<u8>);

impl Piece {
    /// Returns its bytes in the file.
    fn len(&self) -> u64 {
        self.0.len() as u64 + 16
    }

    fn framed(&self) -> Vec<u8> {
        let length = (self.0.len() as u64).to_le_bytes();
        [&length[..], &self.0, &self.checksum().to_le_bytes()].concat()
    }

    fn checksum(&self) -> u64 {
        let mut sum = Checksum::default();
        sum.add(&self.0);
        sum.value()
    }

    /// Returns the values of each row; `None` where the first is not the one at `first`, or there are more than `rows` in all.
    fn values(&self, first: usize, rows: usize) -> Option<Vec<Vec<f64>>> {
        let (words, []) = self.0.as_chunks::<8>() else {
            return None;
        };
        let (place, mut words) = words.split_first()?;
        if u64::from_le_bytes(*place) != first as u64 {
            return None;
        }
        let mut found = Vec::new();
        while let Some((count, rest)) = words.split_first() {
            let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
            let (values, rest) = rest.split_at_checked(count)?;
            found.push(
                values
                    .iter()
                    .map(|bytes| f64::from_le_bytes(*bytes))
                    .collect(),
            );
            words = rest;
        }
        (!found.is_empty() && first + found.len() <= rows).then_some(found)
    }
}

/// Returns whether the file has pieces under `key`; it is then read up to them.
fn is_of(file: &mut File, key: u64) -> io::Result<bool> {
    let mut head = [0; HEAD as usize];
    match file.read_exact(&mut head) {
        Ok(()) => Ok(head[..16] == MAGIC && head[16..] == key.to_le_bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the next piece of a file that has `left` more bytes; `None` where there is none that is whole.
fn next(from: &mut impl Read, left: u64) -> io::Result<Option<Piece>> {
    let mut word = [0; 8];
    if left < 16 {
        return Ok(None);
    }
    from.read_exact(&mut word)?;
    let length = u64::from_le_bytes(word);
    if length > left - 16 {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    from.read_exact(&mut word)?;
    let piece = Piece(bytes);
    Ok((piece.checksum() == u64::from_le_bytes(word)).then_some(piece))
}

fn write_error(path: &Path, error: &io::Error) -> FinetuneError {
    FinetuneError::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ROWS: usize = 5;

    /// The values of the row at `place`.
    fn row(place: usize) -> Vec<f64> {
        (0..place % 3 + 1)
            .map(|at| -((place * 4 + at) as f64) / 3.0)
            .collect()
    }

    /// Opens the pieces and returns them with the number of rows that they have.
    fn open(path: &Path, key: u64) -> (Pieces, usize) {
        let mut answers = Answers::in_dir(Path::new(""));
        let pieces = Pieces::open(path.to_owned(), key, ROWS, &mut answers).unwrap();
        (pieces, answers.rows())
    }

    /// Writes batches of two rows, and returns where each ends.
    fn write(path: &Path, key: u64) -> Vec<usize> {
        let (mut pieces, mut first) = open(path, key);
        let mut ends = vec![fs::read(path).unwrap().len()];
        while first < ROWS {
            let batch: Vec<_> = (first..(first + 2).min(ROWS)).map(row).collect();
            pieces.append(first, &batch).unwrap();
            first += batch.len();
            ends.push(fs::read(path).unwrap().len());
        }
        ends
    }

    #[test]
    fn a_file_that_ends_anywhere_has_its_whole_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.part");
        let ends = write(&path, 7);
        let whole = fs::read(&path).unwrap();
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let (_, rows) = open(&path, 7);
            let pieces = ends[1..].iter().filter(|end| **end <= len).count();
            assert_eq!(rows, (2 * pieces).min(ROWS), "{len}");
            assert_eq!(fs::read(&path).unwrap().len(), ends[pieces], "{len}");
            // What is lost is written again, and then it is the same file.
            write(&path, 7);
            assert!(fs::read(&path).unwrap() == whole, "{len}");
        }
    }

    #[test]
    fn a_piece_that_is_damaged_and_those_after_it_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.part");
        let ends = write(&path, 7);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            let before = ends.iter().filter(|end| **end <= at).count();
            assert_eq!(open(&path, 7).1, 2 * before.saturating_sub(1), "{at}");
        }
    }

    #[test]
    fn pieces_of_something_else_and_more_than_there_are_rows_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.part");
        write(&path, 7);
        let mut answers = Answers::in_dir(Path::new(""));
        Pieces::open(path.clone(), 7, 3, &mut answers).unwrap();
        assert_eq!(answers.rows(), 2);
        assert_eq!(open(&path, 8).1, 0);
        assert_eq!(open(&path, 7).1, 0);
    }
}
