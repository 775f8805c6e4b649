//! What a line of a JSONL file holds.

use crate::data::answers::Conversation;
use crate::error::RowProblem;
use crate::template::{Message, TemplateVariables};
use minijinja::value::{Value, ValueKind};

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

impl Example {
    /// Reads a line. Keys that are null count as absent.
    ///
    /// # Errors
    /// A line that is no JSON, no object, lacks the keys of every kind, or holds another type under one of them.
    pub fn parse(line: &str) -> Result<Self, RowProblem> {
        let row: Value = serde_json::from_str(line)
            .map_err(|error: serde_json::Error| RowProblem::NotJson(error.to_string()))?;
        if row.kind() != ValueKind::Map {
            return Err(RowProblem::UnknownKeys {
                found: format!("no object but a {}", row.kind()),
            });
        }
        if let Some(messages) = key(&row, "messages") {
            return Ok(Self::Chat(conversation(&row, &messages)?));
        }
        let both = key(&row, "prompt").zip(key(&row, "completion"));
        if let Some((prompt, completion)) = both {
            return Ok(Self::Completion {
                prompt: string("prompt", &prompt)?,
                completion: string("completion", &completion)?,
            });
        }
        match key(&row, "text") {
            Some(text) => Ok(Self::Text(string("text", &text)?)),
            None => Err(RowProblem::UnknownKeys {
                found: keys_of(&row),
            }),
        }
    }
}

fn conversation(row: &Value, messages: &Value) -> Result<Conversation, RowProblem> {
    let unreadable =
        |reason: String| RowProblem::WrongType(format!("\"messages\" cannot be read: {reason}"));
    let items = list(messages)
        .ok_or_else(|| unreadable(format!("it is a {}, not a list", messages.kind())))?;
    let messages = items.iter().enumerate().map(|(place, message)| {
        Message::from_value(message)
            .map_err(|reason| unreadable(format!("message {}: {reason}", place + 1)))
    });
    let other = match key(row, "chat_template_kwargs") {
        Some(switches) => pairs(&parsed("chat_template_kwargs", switches)?)?,
        None => Vec::new(),
    };
    Ok(Conversation {
        messages: messages.collect::<Result<_, _>>()?,
        variables: TemplateVariables {
            tools: list_under(row, "tools")?,
            documents: list_under(row, "documents")?,
            other,
        },
    })
}

/// Returns the list under a key, which may be written as a JSON string.
fn list_under(row: &Value, name: &str) -> Result<Option<Value>, RowProblem> {
    let Some(value) = key(row, name) else {
        return Ok(None);
    };
    let value = parsed(name, value)?;
    match value.kind() {
        ValueKind::Seq => Ok(Some(value)),
        ValueKind::None => Ok(None),
        other => Err(RowProblem::WrongType(format!(
            "\"{name}\" is a {other}, not a list"
        ))),
    }
}

/// Returns what a string holds as JSON, and any other value as it is.
fn parsed(name: &str, value: Value) -> Result<Value, RowProblem> {
    match value.as_str() {
        Some(text) => serde_json::from_str(text).map_err(|error| {
            RowProblem::WrongType(format!("\"{name}\" is a string, but not JSON: {error}"))
        }),
        None => Ok(value),
    }
}

fn pairs(switches: &Value) -> Result<Vec<(String, Value)>, RowProblem> {
    if switches.kind() != ValueKind::Map {
        return Err(RowProblem::WrongType(format!(
            "\"chat_template_kwargs\" is a {}, not an object",
            switches.kind()
        )));
    }
    let names = switches.try_iter().into_iter().flatten();
    let named = |name: Value| {
        let value = switches.get_item(&name).ok()?;
        (!value.is_none()).then(|| (name.to_string(), value))
    };
    Ok(names.filter_map(named).collect())
}

fn list(value: &Value) -> Option<Vec<Value>> {
    (value.kind() == ValueKind::Seq).then(|| value.try_iter().into_iter().flatten().collect())
}

/// Returns what is under a key, `None` for null and for nothing.
fn key(row: &Value, name: &str) -> Option<Value> {
    let value = row.get_attr(name).ok()?;
    (!value.is_none() && !value.is_undefined()).then_some(value)
}

fn string(name: &str, value: &Value) -> Result<String, RowProblem> {
    value.as_str().map(str::to_owned).ok_or_else(|| {
        RowProblem::WrongType(format!("\"{name}\" is a {}, not a string", value.kind()))
    })
}

/// Returns the names of the keys that are not null, in alphabetical order.
fn keys_of(row: &Value) -> String {
    let names = row.try_iter().into_iter().flatten();
    let names = names.map(|name| name.to_string());
    let mut names: Vec<String> = names.filter(|name| key(row, name).is_some()).collect();
    names.sort();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
