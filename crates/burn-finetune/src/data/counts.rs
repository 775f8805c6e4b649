//! What became of the examples of a data set.

use crate::data::example;
use crate::error::{Place, RowProblem, RowWarning};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What became of the examples of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Examples that were looked at.
    pub examples: usize,
    /// Rows that can be used.
    pub rows: usize,
    /// Tokens of these rows.
    pub tokens: u64,
    /// Tokens of them that count in the loss.
    pub targets: u64,
    /// Rows whose answer is labelled as desirable.
    pub desirable: usize,
    /// Rows whose answer is labelled as undesirable.
    pub undesirable: usize,
    /// Rows that were cut.
    pub cut: usize,
    /// Tokens that were cut off.
    pub cut_tokens: u64,
    /// Rows that were left out because they have nothing to learn within the allowed length.
    pub dropped: Option<Told>,
    /// Examples that cannot be used, by what is wrong with them.
    pub refused: Vec<Told>,
    /// What the user should hear of the rows, a line for each kind.
    pub warnings: Vec<Told>,
    /// How many rows there are of each length in tokens, before they are cut and those that are too long among them.
    pub lengths: BTreeMap<usize, usize>,
}

/// The first example of which something is true, and their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Told {
    /// What it is.
    pub kind: String,
    /// Where the first is: file and line or row.
    pub first: String,
    /// What is to be said of the first.
    pub message: String,
    /// How many there are.
    pub count: usize,
}

impl Told {
    /// Returns a line for people.
    pub fn line(&self) -> String {
        let Self {
            first,
            message,
            count,
            ..
        } = self;
        match count {
            1 => format!("{first}: {message}"),
            _ => format!("{first}: {message} ({count} such rows)"),
        }
    }
}

impl Counts {
    /// Counts a warning.
    pub(super) fn warn(&mut self, path: &Path, place: Place, warning: &RowWarning) {
        let told = Told::new(warning.kind(), path, place, warning.to_string());
        add(&mut self.warnings, told);
    }

    /// Tells what of a folder is not read.
    pub(crate) fn warn_of_folder(&mut self, path: &Path, message: String) {
        self.tell(path, message);
    }

    /// Tells which columns of a file are not read.
    pub(crate) fn warn_of_columns(&mut self, path: &Path, unread: BTreeSet<String>) {
        let names: Vec<String> = unread.into_iter().collect();
        if !names.is_empty() {
            self.tell(path, format!("not read: {}", example::told(&names)));
        }
    }

    /// Tells something of a file, whatever is told of others.
    fn tell(&mut self, path: &Path, message: String) {
        self.warnings.push(Told {
            kind: format!("not_read {}", path.display()),
            first: path.display().to_string(),
            message,
            count: 1,
        });
    }

    /// Counts an example that cannot be used.
    pub(super) fn refuse(&mut self, path: &Path, place: Place, problem: &RowProblem) {
        let told = Told::new(problem.kind(), path, place, problem.to_string());
        add(&mut self.refused, told);
    }

    /// Counts a row that was left out.
    pub(super) fn drop_row(&mut self, path: &Path, place: Place, max_len: usize) {
        let dropped = self.dropped.get_or_insert_with(|| {
            let message = format!("nothing to learn within {max_len} tokens; left out");
            Told {
                count: 0,
                ..Told::new("dropped", path, place, message)
            }
        });
        dropped.count += 1;
    }

    /// Counts a row's length before it was cut.
    pub(super) fn measure(&mut self, len: usize) {
        *self.lengths.entry(len).or_default() += 1;
    }
}

impl Told {
    fn new(kind: &'static str, path: &Path, place: Place, message: String) -> Self {
        Self {
            kind: kind.to_owned(),
            first: format!("{}{place}", path.display()),
            message,
            count: 1,
        }
    }
}

/// Adds one to those of its kind.
fn add(known: &mut Vec<Told>, told: Told) {
    match known.iter_mut().find(|known| known.kind == told.kind) {
        Some(known) => known.count += told.count,
        None => known.push(told),
    }
}
