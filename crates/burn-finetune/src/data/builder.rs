//! A data set that grows example by example.

use crate::data::columns::Columns;
use crate::data::counts::Counts;
use crate::data::dataset::Dataset;
use crate::data::encode::{Encoded, RowEncoder};
use crate::data::file;
use crate::data::row::Row;
use crate::data::source::{Share, Source, Sources};
use crate::data::store::{Origin, RowWriter};
use crate::data::verdict::Verdicts;
use crate::error::{FinetuneError, Place, RowProblem};
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
    first: Option<Place>,
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

    /// Appends the rows of files, as [`Dataset::read`] does.
    ///
    /// # Errors
    /// As for that. Rows that are too long are counted to a file's end, so that the error can name them all.
    pub fn read(
        &mut self,
        sources: &Sources,
        encoder: &RowEncoder<'_>,
    ) -> Result<(), FinetuneError> {
        let before = self.counts.rows;
        let files = self.files_of(sources)?;
        for file in &files {
            self.read_file(file, sources.columns(), encoder)?;
        }
        match files.first() {
            Some((file, _)) if self.counts.rows == before => Err(FinetuneError::NoData {
                path: file.path().to_owned(),
                reason: "the weights take none of the rows; raise them",
            }),
            _ => Ok(()),
        }
    }

    fn read_file(
        &mut self,
        (file, share): &(Source, Share),
        columns: &Columns,
        encoder: &RowEncoder<'_>,
    ) -> Result<(), FinetuneError> {
        let path = file.path();
        self.files.push(path.display().to_string());
        let mut too_long = TooLong::default();
        let (before, rows) = (self.counts.examples, self.counts.rows);
        let share = share.clone();
        let unread = file::read(
            path,
            share,
            columns,
            encoder,
            &mut |place, encoded| match encoded {
                Err(RowProblem::TooLong { len, .. }) => {
                    too_long.first.get_or_insert(place);
                    too_long.count += 1;
                    too_long.longest = too_long.longest.max(len);
                    self.counts.examples += 1;
                    Ok(())
                }
                Err(problem) => Err(FinetuneError::Line {
                    path: path.to_owned(),
                    line: place,
                    problem,
                }),
                Ok(encoded) => self.take(path, place, encoded, encoder.max_len),
            },
        )?;
        self.counts.warn_of_columns(path, unread);
        let examples = self.counts.examples - before;
        if let Some(first) = too_long.first {
            return Err(FinetuneError::TooLong {
                path: path.to_owned(),
                line: first,
                count: too_long.count,
                examples,
                longest: too_long.longest,
                max: encoder.max_len,
            });
        }
        if self.counts.rows == rows && examples > 0 {
            return Err(FinetuneError::NoData {
                path: path.to_owned(),
                reason: "no row has anything to learn within the allowed length; give a larger --seq-len",
            });
        }
        Ok(())
    }

    /// Appends what can be used of files, and counts what cannot.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`], [`FinetuneError::NoData`], [`FinetuneError::RowLength`],
    /// [`FinetuneError::Write`], and [`FinetuneError::Line`] where a file cannot be read on.
    pub fn survey(
        &mut self,
        sources: &Sources,
        encoder: &RowEncoder<'_>,
    ) -> Result<(), FinetuneError> {
        for (file, share) in self.files_of(sources)? {
            let path = file.path();
            self.files.push(path.display().to_string());
            let columns = sources.columns();
            let unread =
                file::read(
                    path,
                    share,
                    columns,
                    encoder,
                    &mut |place, encoded| match encoded {
                        Ok(encoded) => self.take(path, place, encoded, encoder.max_len),
                        Err(problem) => {
                            self.counts.examples += 1;
                            self.counts.refuse(path, place, &problem);
                            if let RowProblem::TooLong { len, .. } = problem {
                                self.counts.measure(len);
                            }
                            Ok(())
                        }
                    },
                )?;
            self.counts.warn_of_columns(path, unread);
        }
        Ok(())
    }

    /// Returns the files with the share of each, and tells what is left out of folders.
    fn files_of(&mut self, sources: &Sources) -> Result<Vec<(Source, Share)>, FinetuneError> {
        let files = sources.files()?;
        for (folder, message) in files.left_out {
            self.counts.warn_of_folder(&folder, message);
        }
        let files = files.read.into_iter().enumerate();
        let shared = files.map(|(place, file)| {
            let share = Share::new(file.weight(), place);
            (file, share)
        });
        Ok(shared.collect())
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
        place: Place,
        encoded: Encoded,
        max_len: usize,
    ) -> Result<(), FinetuneError> {
        self.counts.examples += 1;
        self.origin = Origin {
            file: self.files.len() as u32,
            place,
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
            self.counts.drop_row(path, place, max_len);
        }
        for warning in &encoded.warnings {
            self.counts.warn(path, place, warning);
        }
        Ok(())
    }

    fn append(&mut self, row: &Row) -> Result<(), FinetuneError> {
        self.rows.push(row, self.origin, self.goes_on)?;
        self.goes_on = true;
        self.counts.rows += 1;
        self.counts.tokens += row.len() as u64;
        self.counts.targets += row.targets() as u64;
        if let Verdicts::Labels(labels) = row.verdicts() {
            let desirable = labels.iter().filter(|label| **label).count();
            self.counts.desirable += desirable;
            self.counts.undesirable += labels.len() - desirable;
        }
        Ok(())
    }
}
