//! The names of columns.

use crate::error::FinetuneError;

/// What a column can be.
pub const NAMES: [&str; 13] = [
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "text",
    "tools",
    "documents",
    "chat_template_kwargs",
];

/// The columns of a file that go by other names than those that are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(Vec<(String, String)>);

impl Columns {
    /// Returns the names with the column of each.
    ///
    /// # Errors
    /// [`FinetuneError::Columns`] for a name that is not read, for one that is given twice, and for a column that gets two.
    pub fn new(named: impl IntoIterator<Item = (String, String)>) -> Result<Self, FinetuneError> {
        let mut columns = Self::default();
        for (name, column) in named {
            let refused =
                |reason: String| Err(FinetuneError::Columns(format!("{name}={column}: {reason}")));
            if !NAMES.contains(&name.as_str()) {
                return refused(format!(
                    "{name} is not read; a column can be {}",
                    NAMES.join(", ")
                ));
            }
            if columns.0.iter().any(|(known, _)| *known == name) {
                return refused(format!("{name} is another column already"));
            }
            if columns.0.iter().any(|(_, known)| *known == column) {
                return refused(format!("{column} has another name already"));
            }
            columns.0.push((name, column));
        }
        Ok(columns)
    }

    /// Returns the column that goes by `name`; `None` where it was given another name.
    pub(super) fn column<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let given = self.0.iter().find(|(known, _)| known == name);
        match given {
            Some((_, column)) => Some(column),
            None if self.0.iter().any(|(_, column)| column == name) => None,
            None => Some(name),
        }
    }

    /// Returns whether the user has said which column goes by `name`.
    pub(super) fn names(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Returns every column that may be read.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        NAMES.iter().filter_map(|name| self.column(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(named: &[(&str, &str)]) -> Result<Columns, FinetuneError> {
        Columns::new(named.iter().map(|(a, b)| (a.to_string(), b.to_string())))
    }

    #[test]
    fn a_column_goes_by_the_name_it_was_given_alone() {
        let columns = columns(&[("completion", "text"), ("prompt", "q")]).unwrap();
        assert_eq!(columns.column("completion"), Some("text"));
        assert_eq!(columns.column("text"), None);
        assert_eq!(columns.column("messages"), Some("messages"));
        assert!(columns.names("prompt") && !columns.names("messages"));
        assert!(columns.all().any(|column| column == "q"));
        assert!(columns.all().all(|column| column != "completion"));
    }

    #[test]
    fn names_are_known_and_given_once() {
        for (named, expected) in [
            (&[("answer", "a")][..], "a column can be messages"),
            (&[("text", "a"), ("text", "b")], "text is another column"),
            (&[("text", "a"), ("prompt", "a")], "a has another name"),
        ] {
            let error = columns(named).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
