//! What the user should hear of a file.

use crate::data::example::told;
use crate::error::{Place, RowWarning};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first warning of each kind with its place, and the number of such rows.
pub struct Warnings {
    path: PathBuf,
    first: Vec<(Place, RowWarning, usize)>,
}

impl Warnings {
    /// Returns those of a file.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            first: Vec::new(),
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

    /// Returns them as lines, with one of the columns that were not read.
    pub fn told(self, unread: BTreeSet<String>) -> Vec<String> {
        let path = self.path.display();
        let told_of_row = |(place, warning, count): (Place, RowWarning, usize)| {
            let first = format!("{path}{place}: {warning}");
            match count - 1 {
                0 => first,
                more => format!("{first} ({} such rows)", more + 1),
            }
        };
        let mut lines: Vec<String> = self.first.into_iter().map(told_of_row).collect();
        if !unread.is_empty() {
            let names: Vec<String> = unread.into_iter().collect();
            lines.push(format!("{path}: not read: {}", told(&names)));
        }
        lines
    }
}
