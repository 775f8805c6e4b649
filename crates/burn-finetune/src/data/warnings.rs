//! What the user should hear of a file.

use crate::data::example::told;
use crate::error::{Place, RowWarning};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first warning of each kind with its place and the number of such rows, and the columns that are not read.
pub struct Warnings {
    path: PathBuf,
    first: Vec<(Place, RowWarning, usize)>,
    unread: BTreeSet<String>,
}

impl Warnings {
    /// Returns those of a file, with columns that are not read.
    pub fn new(path: &Path, unread: Vec<String>) -> Self {
        Self {
            path: path.to_owned(),
            first: Vec::new(),
            unread: unread.into_iter().collect(),
        }
    }

    /// Adds that of a row.
    pub fn add(&mut self, place: Place, warning: RowWarning) {
        let kind = std::mem::discriminant(&warning);
        let known = self.first.iter_mut();
        let mut known = known.filter(|(_, first, _)| std::mem::discriminant(first) == kind);
        match known.next() {
            Some((_, _, count)) => *count += 1,
            None => self.first.push((place, warning, 1)),
        }
    }

    /// Adds columns of a row that are not read.
    pub fn add_unread(&mut self, columns: Vec<String>) {
        // Of endless names a warning tells a few.
        const MOST: usize = 1000;
        if self.unread.len() < MOST {
            self.unread.extend(columns);
        }
    }

    /// Returns them as lines.
    pub fn told(self) -> Vec<String> {
        let path = self.path.display();
        let told_of_row = |(place, warning, count): (Place, RowWarning, usize)| {
            let first = format!("{path}{place}: {warning}");
            match count - 1 {
                0 => first,
                more => format!("{first} ({} such rows)", more + 1),
            }
        };
        let mut lines: Vec<String> = self.first.into_iter().map(told_of_row).collect();
        if !self.unread.is_empty() {
            let names: Vec<String> = self.unread.into_iter().collect();
            lines.push(format!("{path}: not read: {}", told(&names)));
        }
        lines
    }
}
