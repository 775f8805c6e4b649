//! What a row of a data file holds.

/// Instruction, input and output.
mod alpaca;
/// Conversations.
mod chat;
/// A prompt and what follows it.
mod completion;
/// A row's columns.
pub(crate) mod fields;
/// What an unknown row may be.
mod hint;
/// Prompts with answers that are judged.
mod preference;
/// What a row asks of a model.
mod question;
/// The names that speakers have.
mod sharegpt;

use crate::data::answers::Conversation;
use crate::data::columns::Columns;
use crate::data::verdict::ExampleKind;
use crate::error::RowProblem;
use fields::Fields;
pub use hint::told;
use minijinja::value::{Value, ValueKind};
pub use preference::{Preference, Prompted, Verdict};
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
    /// Answers that are judged.
    Preference(Preference),
}

/// A kind of row.
struct Kind {
    /// The columns that make it one.
    columns: &'static [&'static str],
    /// Reads it.
    read: fn(&Fields<'_>) -> Result<Example, RowProblem>,
}

/// The kinds of text; where a row is several, the first counts.
const TEXTS: &[Kind] = &[
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

/// The kinds of pairs.
const PAIRS: &[Kind] = &[Kind {
    columns: &["chosen", "rejected"],
    read: preference::read_pair,
}];

/// The kinds of labelled answers; those of pairs are labelled by which of the two they are.
const LABELLED: &[Kind] = &[
    Kind {
        columns: &["prompt", "completion", "label"],
        read: preference::read_labelled,
    },
    Kind {
        columns: &["chosen", "rejected"],
        read: preference::read_both,
    },
];

/// Returns the kinds of row that are such examples.
fn kinds(kind: ExampleKind) -> &'static [Kind] {
    match kind {
        ExampleKind::Texts => TEXTS,
        ExampleKind::Pairs => PAIRS,
        ExampleKind::Labelled => LABELLED,
    }
}

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
            return Err(hint::unknown(&fields, columns.kind()));
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
        None => Err(hint::unknown_columns(found, columns.kind())),
    }
}

/// Returns the kind of a row by its columns. Those that the user has named come before others.
fn kind(columns: &Columns, has: impl Fn(&str) -> bool) -> Option<&'static Kind> {
    let has = |name: &str| columns.column(name).is_some_and(&has);
    let fitting = || {
        kinds(columns.kind())
            .iter()
            .filter(|kind| kind.columns.iter().all(|name| has(name)))
    };
    let named = fitting().find(|kind| kind.columns.iter().any(|name| columns.names(name)));
    named.or_else(|| fitting().next())
}
