//! A data set that grows example by example.

use crate::data::counts::Counts;
use crate::data::dataset::Dataset;
use crate::data::encode::{Encoded, RowEncoder};
use crate::data::file;
use crate::data::row::Row;
use crate::data::store::{Origin, RowWriter};
use crate::error::{FinetuneError, RowProblem};
use std::path::{Path, PathBuf};

/// Reads files into a [`Dataset`] whose rows do not stay in memory.
#[derive(Debug)]
pub struct DatasetBuilder {
    dir: PathBuf,
    rows: RowWriter,
    counts: Counts,
    files: Vec<String>,
    origin: Origin,
    goes_on: bool,
}

/// The rows that are too long for the encoder.
#[derive(Debug, Default)]
struct TooLong {
    first: usize,
    count: usize,
    longest: usize,
}

impl Default for DatasetBuilder {
    fn default() -> Self {
        Self::in_dir(std::env::temp_dir())
    }
}

impl DatasetBuilder {
    /// Returns one without rows. What is too much for memory goes to nameless files in the folder `dir`; by
    /// [`default`](Self::default) in that of the system.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            rows: RowWriter::into_dir(&dir),
            dir,
            counts: Counts::default(),
            files: Vec::new(),
            origin: Origin::default(),
            goes_on: false,
        }
    }

    /// Holds `limit` bytes in memory at most, of the rows and of their index, before they go to files.
    #[must_use]
    pub fn with_memory(self, limit: usize) -> Self {
        Self {
            rows: self.rows.with_limit(limit),
            ..self
        }
    }

    /// Appends a row as it is.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn push(&mut self, row: &Row) -> Result<(), FinetuneError> {
        self.push_example(std::slice::from_ref(row))
    }

    /// Appends the rows of one example as they are.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn push_example(&mut self, rows: &[Row]) -> Result<(), FinetuneError> {
        self.counts.examples += 1;
        self.origin = Origin::default();
        self.goes_on = false;
        for row in rows {
            self.counts.measure(row.len());
            self.append(row)?;
        }
        Ok(())
    }

    /// Appends the rows of a file, as [`Dataset::read`] does.
    ///
    /// # Errors
    /// As for that. Rows that are too long are counted to the file's end, so that the error can name them all.
    pub fn read(&mut self, path: &Path, encoder: &RowEncoder<'_>) -> Result<(), FinetuneError> {
        self.files.push(path.display().to_string());
        let mut too_long = TooLong::default();
        let (before, rows) = (self.counts.examples, self.counts.rows);
        file::read(path, encoder, &mut |line, encoded| match encoded {
            Err(RowProblem::TooLong { len, .. }) => {
                if too_long.count == 0 {
                    too_long.first = line;
                }
                too_long.count += 1;
                too_long.longest = too_long.longest.max(len);
                self.counts.examples += 1;
                Ok(())
            }
            Err(problem) => Err(FinetuneError::Line {
                path: path.to_owned(),
                line,
                problem,
            }),
            Ok(encoded) => self.take(path, line, encoded, encoder.max_len),
        })?;
        let examples = self.counts.examples - before;
        if too_long.count > 0 {
            return Err(FinetuneError::TooLong {
                path: path.to_owned(),
                line: too_long.first,
                count: too_long.count,
                examples,
                longest: too_long.longest,
                max: encoder.max_len,
            });
        }
        if self.counts.rows == rows {
            return Err(FinetuneError::NoData {
                path: path.to_owned(),
                reason: if examples > 0 {
                    "no row has anything to learn within the allowed length; give a larger --seq-len"
                } else if file::is_text(path) {
                    "a text needs at least two tokens"
                } else {
                    "every line is blank; a row is a JSON object on a line of its own"
                },
            });
        }
        Ok(())
    }

    /// Appends what can be used of a file, and counts what cannot.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::RowLength`], [`FinetuneError::Write`].
    pub fn survey(&mut self, path: &Path, encoder: &RowEncoder<'_>) -> Result<(), FinetuneError> {
        self.files.push(path.display().to_string());
        file::read(path, encoder, &mut |line, encoded| match encoded {
            Ok(encoded) => self.take(path, line, encoded, encoder.max_len),
            Err(problem) => {
                self.counts.examples += 1;
                self.counts.refuse(path, line, &problem);
                if let RowProblem::TooLong { len, .. } = problem {
                    self.counts.measure(len);
                }
                Ok(())
            }
        })
    }

    /// Returns the data set.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn finish(self) -> Result<Dataset, FinetuneError> {
        let store = self.rows.finish(self.files, self.counts)?;
        Ok(Dataset::of_store(store, self.dir))
    }

    /// Appends the rows of an example.
    fn take(
        &mut self,
        path: &Path,
        line: usize,
        encoded: Encoded,
        max_len: usize,
    ) -> Result<(), FinetuneError> {
        self.counts.examples += 1;
        self.origin = Origin {
            file: self.files.len() as u32,
            line: u32::try_from(line).unwrap_or(u32::MAX),
        };
        self.goes_on = false;
        for row in &encoded.rows {
            self.append(row)?;
        }
        for len in &encoded.lengths {
            self.counts.measure(*len);
        }
        self.counts.cut += encoded.cut.len();
        self.counts.cut_tokens += encoded.cut.iter().sum::<usize>() as u64;
        for _ in 0..encoded.dropped {
            self.counts.drop_row(path, line, max_len);
        }
        for warning in &encoded.warnings {
            self.counts.warn(path, line, warning);
        }
        Ok(())
    }

    fn append(&mut self, row: &Row) -> Result<(), FinetuneError> {
        self.rows.push(row, self.origin, self.goes_on)?;
        self.goes_on = true;
        self.counts.rows += 1;
        self.counts.tokens += row.len() as u64;
        self.counts.targets += row.targets() as u64;
        Ok(())
    }
}
