//! What a row of a data file holds.

/// Instruction, input and output.
mod alpaca;
/// Conversations.
mod chat;
/// A prompt and what follows it.
mod completion;
/// A row's columns.
mod fields;
/// What an unknown row may be.
mod hint;
/// What a row asks of a model.
mod question;
/// The names that speakers have.
mod sharegpt;

use crate::data::answers::Conversation;
use crate::data::columns::Columns;
use crate::error::RowProblem;
use fields::Fields;
pub use hint::told;
use minijinja::value::{Value, ValueKind};
pub use question::Question;

/// One example of a data file.
#[derive(Debug)]
pub enum Example {
    /// A conversation, of which the answers are learnt.
    Chat(Conversation),
    /// A prompt and what is learnt to follow it.
    Completion {
        /// The text before.
        prompt: String,
        /// The text to learn.
        completion: String,
    },
    /// A text that is learnt whole.
    Text(String),
}

/// A kind of row.
struct Kind {
    /// The columns that make it one.
    columns: &'static [&'static str],
    /// Reads it.
    read: fn(&Fields<'_>) -> Result<Example, RowProblem>,
}

/// The kinds; where a row is several, the first counts.
const KINDS: [Kind; 5] = [
    Kind {
        columns: &["messages"],
        read: |row| chat::read(row, "messages"),
    },
    Kind {
        columns: &["conversations"],
        read: |row| chat::read(row, "conversations"),
    },
    Kind {
        columns: &["prompt", "completion"],
        read: completion::read,
    },
    Kind {
        columns: &["instruction", "output"],
        read: alpaca::read,
    },
    Kind {
        columns: &["text"],
        read: |row| Ok(Example::Text(row.string("text")?)),
    },
];

impl Example {
    /// Reads a row, and returns with it the columns that are not read. Keys that are null count as absent.
    ///
    /// # Errors
    /// A row that is no object, lacks the keys of every kind, or holds another type under one of them.
    pub fn read(row: &Value, columns: &Columns) -> Result<(Self, Vec<String>), RowProblem> {
        if row.kind() != ValueKind::Map {
            return Err(RowProblem::NotObject(row.kind().to_string()));
        }
        let fields = Fields::new(row, columns);
        let Some(kind) = kind(columns, |column| fields.has(column)) else {
            return Err(hint::unknown(&fields));
        };
        let example = (kind.read)(&fields)?;
        Ok((example, fields.unread()))
    }
}

/// Refuses a file whose rows cannot be of any kind, by the names of its columns.
///
/// # Errors
/// Why not.
pub fn check_columns(found: &[String], columns: &Columns) -> Result<(), RowProblem> {
    match kind(columns, |column| found.iter().any(|name| name == column)) {
        Some(_) => Ok(()),
        None => Err(hint::unknown_columns(found)),
    }
}

/// Returns the kind of a row by its columns. Those that the user has named come before others.
fn kind(columns: &Columns, has: impl Fn(&str) -> bool) -> Option<&'static Kind> {
    let has = |name: &str| columns.column(name).is_some_and(&has);
    let fitting = || {
        KINDS
            .iter()
            .filter(|kind| kind.columns.iter().all(|name| has(name)))
    };
    let named = fitting().find(|kind| kind.columns.iter().any(|name| columns.names(name)));
    named.or_else(|| fitting().next())
}
