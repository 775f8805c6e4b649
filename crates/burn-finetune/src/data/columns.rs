//! The names of columns.

use crate::data::verdict::ExampleKind;
use crate::error::FinetuneError;

impl ExampleKind {
    /// Returns what a column can be.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Texts => &[
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
            ],
            Self::Pairs => &[
                "prompt",
                "messages",
                "conversations",
                "system",
                "chosen",
                "rejected",
                "tools",
                "documents",
                "chat_template_kwargs",
            ],
            Self::Labelled => &[
                "prompt",
                "messages",
                "conversations",
                "system",
                "completion",
                "label",
                "chosen",
                "rejected",
                "tools",
                "documents",
                "chat_template_kwargs",
            ],
        }
    }
}

/// The columns of a file that are read, some of which may go by other names than theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    kind: ExampleKind,
    named: Vec<(String, String)>,
}

impl Columns {
    /// Returns the names with the column of each, of rows that are texts to learn.
    ///
    /// # Errors
    /// [`FinetuneError::Columns`] for a name that is not read, for one that is given twice, and for a column that gets two.
    pub fn new(named: impl IntoIterator<Item = (String, String)>) -> Result<Self, FinetuneError> {
        Self::of(ExampleKind::Texts, named)
    }

    /// Returns the names with the column of each, of rows that are examples of a kind.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(
        kind: ExampleKind,
        named: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, FinetuneError> {
        let mut columns = Self {
            kind,
            named: Vec::new(),
        };
        for (name, column) in named {
            let refused =
                |reason: String| Err(FinetuneError::Columns(format!("{name}={column}: {reason}")));
            if !kind.names().contains(&name.as_str()) {
                return refused(format!(
                    "{name} is not read; a column can be {}",
                    kind.names().join(", ")
                ));
            }
            if columns.named.iter().any(|(known, _)| *known == name) {
                return refused(format!("{name} is another column already"));
            }
            if columns.named.iter().any(|(_, known)| *known == column) {
                return refused(format!("{column} has another name already"));
            }
            columns.named.push((name, column));
        }
        Ok(columns)
    }

    /// Returns what the rows are examples of.
    pub fn kind(&self) -> ExampleKind {
        self.kind
    }

    /// Returns the column that goes by `name`; `None` where it was given another name.
    pub(super) fn column<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let given = self.named.iter().find(|(known, _)| known == name);
        match given {
            Some((_, column)) => Some(column),
            None if self.named.iter().any(|(_, column)| column == name) => None,
            None => Some(name),
        }
    }

    /// Returns whether the user has said which column goes by `name`.
    pub(super) fn names(&self, name: &str) -> bool {
        self.named.iter().any(|(known, _)| known == name)
    }

    /// Returns every column that may be read.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        let names = self.kind.names().iter();
        names.filter_map(|name| self.column(name))
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
