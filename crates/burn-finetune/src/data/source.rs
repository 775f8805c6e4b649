//! Where examples come from: files in the formats people have, read as a stream.

/// gzip and zstd.
mod compressed;
/// Tables of texts.
mod delimited;
/// The files of a folder.
mod folder;
/// What a file is.
mod format;
/// Objects, one after another or in an array.
mod json;
/// An opened file.
mod open;
/// Parquet.
mod parquet;
/// The rows that are taken.
mod share;
/// UTF-8.
mod text;
/// The columns that rows are made of.
mod wanted;

pub use format::is_read as is_data_file;
pub use open::{Content, Fault, Record, open};
pub use share::Share;
pub use text::Utf8;
pub use wanted::Wanted;

use crate::data::columns::Columns;
use crate::error::FinetuneError;
use std::path::{Path, PathBuf};

/// Most times that a row is taken.
const MOST: f64 = 1000.0;

/// A file, or a folder of files, and the share of its rows that is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    path: PathBuf,
    weight: f64,
}

impl Source {
    /// Returns a source whose rows are taken once each.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            weight: 1.0,
        }
    }

    /// Returns the source with a weight: that many times its rows are taken. Of a half every second row is, say, chosen
    /// at random among two neighbours; with 2.5 every row is taken twice, and one of two neighbours once more. The choice
    /// follows from the file's place among the sources alone, so it is the same in every epoch and every run.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] for a weight that is not above 0 and at most 1000.
    pub fn with_weight(self, weight: f64) -> Result<Self, FinetuneError> {
        if weight > 0.0 && weight <= MOST {
            Ok(Self { weight, ..self })
        } else {
            Err(FinetuneError::InvalidConfig {
                field: "a weight of data",
                value: weight.to_string(),
                expected: "above 0 and at most 1000",
            })
        }
    }

    /// Returns the file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the times that its rows are taken.
    pub fn weight(&self) -> f64 {
        self.weight
    }
}

/// The files of a data set in their order, and the names of their columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    sources: Vec<Source>,
    columns: Columns,
}

/// Files without folders.
#[derive(Debug, Default)]
pub struct Files {
    /// Those that are read, in their order.
    pub read: Vec<Source>,
    /// What the user should hear of those in folders that are not, with the folder.
    pub left_out: Vec<(PathBuf, String)>,
}

impl Sources {
    /// Returns the sources, whose columns have the names that are read.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self {
            sources: sources.into_iter().collect(),
            columns: Columns::default(),
        }
    }

    /// Returns one file or folder, whose rows are taken once each.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new([Source::new(path)])
    }

    /// Returns the sources with other names for their columns.
    #[must_use]
    pub fn with_columns(self, columns: Columns) -> Self {
        Self { columns, ..self }
    }

    /// Returns the files and folders in their order.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Returns the names of the columns.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Returns where the files that are read lie, in their order.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`].
    pub fn paths(&self) -> Result<Vec<PathBuf>, FinetuneError> {
        let files = self.files()?.read.into_iter();
        Ok(files.map(|source| source.path).collect())
    }

    /// Returns the files, those of folders by their names.
    ///
    /// # Errors
    /// [`FinetuneError::Read`] for what is not there, [`FinetuneError::Format`] for a folder without a file that is read
    /// and for what is neither a file nor a folder.
    pub(crate) fn files(&self) -> Result<Files, FinetuneError> {
        let mut files = Files::default();
        for source in &self.sources {
            if source.path.is_dir() {
                let (paths, others) = folder::files(&source.path)?;
                let others = others.map(|others| (source.path.clone(), others));
                files.left_out.extend(others);
                files.read.extend(paths.into_iter().map(|path| Source {
                    path,
                    weight: source.weight,
                }));
            } else {
                files.read.push(source.clone());
            }
        }
        Ok(files)
    }
}
