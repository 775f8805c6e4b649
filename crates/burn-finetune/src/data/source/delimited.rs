use super::open::{Fault, Record};
use super::text::Utf8;
use super::wanted::Wanted;
use crate::error::{Place, RowProblem};
use crate::template::object;
use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};
use minijinja::value::Value;
use std::io::{self, BufRead, Read};

/// The rows of a table whose first line names its columns. An empty cell counts as absent.
pub struct Delimited<R> {
    table: Reader<Quotes<R>>,
    names: Vec<String>,
    row: StringRecord,
}

impl<R: Read> Delimited<R> {
    /// Reads the names of the columns. A table without a comma in its first line is divided by semicolons or tabs, if
    /// those are there.
    ///
    /// # Errors
    /// Columns of which no row can be made, and a name that two of them have.
    pub fn new(mut text: Utf8<R>, delimiter: u8, columns: &dyn Wanted) -> Result<Self, Fault> {
        let head = text.fill_buf()?;
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
        let delimiter = match delimiter {
            b',' if !first.contains(&b',') => {
                let others = [b';', b'\t'].into_iter();
                others
                    .clone()
                    .find(|other| first.contains(other))
                    .unwrap_or(b',')
            }
            given => given,
        };
        let mut table = ReaderBuilder::new()
            .delimiter(delimiter)
            .from_reader(Quotes {
                text,
                is_open: false,
            });
        let names = table.headers().map_err(fault)?;
        let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        if names.iter().all(String::is_empty) {
            return Ok(Self::with_names(table, Vec::new()));
        }
        for (place, name) in names.iter().enumerate() {
            if names[..place].contains(name) {
                return Err(Fault::File(format!("two columns are called {name:?}")));
            }
        }
        if let Err(problem) = columns.check(&names) {
            return Err(Fault::File(format!(
                "{problem}; the first line of a table names its columns"
            )));
        }
        Ok(Self::with_names(table, names))
    }

    fn with_names(table: Reader<Quotes<R>>, names: Vec<String>) -> Self {
        Self {
            table,
            names,
            row: StringRecord::new(),
        }
    }

    /// Returns the place of the row that was read last.
    fn place(&self) -> Place {
        place(self.row.position())
    }

    /// Reads the next row; `None` behind the last.
    ///
    /// # Errors
    /// A row that cannot be used, behind which there may be more, and what ends the file.
    pub fn next_record(&mut self) -> Result<Option<Record>, Fault> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let last = self.place();
        let spans_lines = self.row.iter().any(|cell| cell.contains('\n'));
        if !self.table.read_record(&mut self.row).map_err(fault)? {
            // A mark that nothing closes has made one cell of all the lines behind it.
            if self.table.get_ref().is_open && spans_lines {
                let problem = "the quotation mark that opens a cell here is never closed";
                return Err(Fault::Row(last, RowProblem::WrongType(problem.to_owned())));
            }
            return Ok(None);
        }
        let place = self.place();
        let cells = self.names.iter().zip(self.row.iter());
        let cells = cells.filter(|(_, cell)| !cell.is_empty());
        let cells = cells.map(|(name, cell)| (name.clone(), Value::from(cell)));
        Ok(Some(Record {
            place,
            value: object(cells.collect()),
        }))
    }
}

fn place(position: Option<&Position>) -> Place {
    let line = position.map_or(1, Position::line);
    Place::Line(usize::try_from(line).unwrap_or(usize::MAX))
}

/// Keeps in mind whether a quotation mark is open.
struct Quotes<R> {
    text: Utf8<R>,
    is_open: bool,
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        let marks = buffer[..read].iter().filter(|byte| **byte == b'"');
        self.is_open ^= marks.count() % 2 == 1;
        Ok(read)
    }
}

fn fault(error: csv::Error) -> Fault {
    match error.into_kind() {
        ErrorKind::Io(source) => Fault::Read(source),
        ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => Fault::Row(
            place(pos.as_ref()),
            RowProblem::WrongType(format!(
                "it has {len} cells, but the first line names {expected_len} columns; a cell with a line break, a \
                 quotation mark or the character between cells in it stands in quotation marks"
            )),
        ),
        other => Fault::File(format!("the table cannot be read: {other:?}")),
    }
}
