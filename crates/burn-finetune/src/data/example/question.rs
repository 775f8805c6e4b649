use super::chat;
use super::fields::Fields;
use super::{alpaca, hint};
use crate::data::columns::Columns;
use crate::error::RowProblem;
use crate::template::{Message, TemplateVariables};
use minijinja::value::{Value, ValueKind};

/// What a row asks of a model, without the answer if it has one.
#[derive(Debug)]
pub enum Question {
    /// A conversation whose next turn is the assistant's.
    Chat {
        /// The turns so far.
        messages: Vec<Message>,
        /// What the template is shown beside them.
        variables: TemplateVariables,
    },
    /// A text to go on from.
    Text(String),
}

impl Question {
    /// Reads a row that may be one of data, or one without an answer.
    ///
    /// # Errors
    /// A row that is no object, asks nothing, or holds another type under one of its keys.
    pub fn read(row: &Value, columns: &Columns) -> Result<Self, RowProblem> {
        if row.kind() != ValueKind::Map {
            return Err(RowProblem::NotObject(row.kind().to_string()));
        }
        let fields = Fields::new(row, columns);
        let is_list = |value: Value| value.kind() == ValueKind::Seq;
        let messages = if let Some(name) = ["messages", "conversations"]
            .into_iter()
            .find(|name| fields.get(name).is_some())
        {
            chat::conversation(&fields, name)?
        } else if let Some(list) = fields.get("prompt").filter(|value| is_list(value.clone())) {
            chat::messages(fields.column("prompt"), &list)?
        } else if fields.get("prompt").is_some() {
            return Ok(Self::Text(fields.string("prompt")?));
        } else if fields.get("instruction").is_some() {
            alpaca::asked(&fields)?
        } else if fields.get("text").is_some() {
            return Ok(Self::Text(fields.string("text")?));
        } else {
            return Err(RowProblem::NoQuestion {
                found: hint::told(&fields.names()),
            });
        };
        let answers = messages.iter().rev();
        let answers = answers.take_while(|message| message.role() == "assistant");
        let asked = messages.len() - answers.count();
        if asked == 0 {
            return Err(RowProblem::NoQuestion {
                found: hint::told(&fields.names()),
            });
        }
        Ok(Self::Chat {
            messages: messages.into_iter().take(asked).collect(),
            variables: chat::variables(&fields)?,
        })
    }
}
