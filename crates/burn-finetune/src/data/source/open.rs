use super::compressed;
use super::delimited::Delimited;
use super::format::{Format, format, uncompressed};
use super::json::Json;
use super::parquet::Parquet;
use super::text::Utf8;
use super::wanted::Wanted;
use crate::error::{FinetuneError, Place, RowProblem};
use minijinja::value::Value;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;

/// What an opened file holds.
pub enum Content {
    /// One text.
    Text(Utf8<Box<dyn Read>>),
    /// Rows, and the columns beside them that are not read.
    Rows {
        /// The rows.
        rows: Box<dyn Iterator<Item = Result<Record, Fault>>>,
        /// The columns.
        unread: Vec<String>,
    },
}

/// A row and its place.
#[derive(Debug)]
pub struct Record {
    /// Its place.
    pub place: Place,
    /// An object.
    pub value: Value,
}

/// Goes through what `next` reads, up to the end or to what ends the file; behind a row that cannot be used there may be
/// more.
fn records(
    mut next: impl FnMut() -> Result<Option<Record>, Fault>,
) -> impl Iterator<Item = Result<Record, Fault>> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let record = next().transpose();
        is_over = !matches!(record, Some(Ok(_) | Err(Fault::Row(..))));
        record
    })
}

/// What ends the reading of a file.
#[derive(Debug)]
pub enum Fault {
    /// The operating system, or a text that is none.
    Read(io::Error),
    /// A row.
    Row(Place, RowProblem),
    /// The file as a whole.
    File(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Fault {
    /// Returns the error for the file.
    pub fn of(self, path: &Path) -> FinetuneError {
        let path = path.to_owned();
        match self {
            Self::Read(source) => FinetuneError::Read { path, source },
            Self::Row(line, problem) => FinetuneError::Line {
                path,
                line,
                problem,
            },
            Self::File(reason) => FinetuneError::Format { path, reason },
        }
    }
}

/// Opens a data file, whatever its format.
///
/// # Errors
/// A file that is not there, is none, or is of a format that is not read.
pub fn open(path: &Path, columns: &dyn Wanted) -> Result<Content, Fault> {
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(Fault::File(
            "this is a device or a pipe; data is read from files and folders".to_owned(),
        ));
    }
    let mut file = File::open(path)?;
    let (head, _) = peeked(&mut file)?;
    file.rewind()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let known = format(&name, &head).map_err(Fault::File)?;
    if known == Format::Parquet {
        return parquet(file, columns);
    }
    let (inner, packing): (Box<dyn Read>, _) = match known {
        Format::Gzip => (compressed::gzip(file), "gzip"),
        Format::Zstd => (compressed::zstd(file), "zstd"),
        plain => return content(Box::new(file), plain, columns),
    };
    let (head, inner) = peeked(inner)?;
    let known = format(uncompressed(&name), &head)
        .map_err(|reason| Fault::File(format!("in {packing}: {reason}")))?;
    match known {
        Format::Parquet => Err(Fault::File(format!(
            "a Parquet file in {packing} is not read, because its parts are read in another order; unpack it"
        ))),
        Format::Gzip | Format::Zstd => Err(Fault::File(
            "the file is packed twice; unpack it once".to_owned(),
        )),
        plain => content(Box::new(inner), plain, columns),
    }
}

fn content(inner: Box<dyn Read>, format: Format, columns: &dyn Wanted) -> Result<Content, Fault> {
    let text = Utf8::new(inner);
    let rows: Box<dyn Iterator<Item = _>> = match format {
        Format::Text => return Ok(Content::Text(text)),
        Format::Delimited(delimiter) => {
            let mut table = Delimited::new(text, delimiter, columns)?;
            Box::new(records(move || table.next_record()))
        }
        _ => Box::new(Json::new(text)),
    };
    Ok(Content::Rows {
        rows,
        unread: Vec::new(),
    })
}

fn parquet(file: File, columns: &dyn Wanted) -> Result<Content, Fault> {
    let (mut rows, unread) = Parquet::open(file, columns)?;
    Ok(Content::Rows {
        rows: Box::new(records(move || rows.next_record())),
        unread,
    })
}

/// Returns the first bytes, as many as tell formats apart, and a reader that begins with them.
fn peeked<R: Read>(mut inner: R) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    const HEAD: u64 = 512;
    let mut head = Vec::new();
    (&mut inner).take(HEAD).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(inner)))
}
