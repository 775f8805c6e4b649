use super::Example;
use super::chat;
use super::fields::Fields;
use crate::data::answers::Conversation;
use crate::error::RowProblem;
use minijinja::value::{Value, ValueKind};

/// Reads a prompt and its completion: two texts, or two lists of messages.
pub fn read(row: &Fields<'_>) -> Result<Example, RowProblem> {
    let is_list = |value: Option<Value>| value.is_some_and(|value| value.kind() == ValueKind::Seq);
    let (prompt, completion) = (row.get("prompt"), row.get("completion"));
    match (is_list(prompt.clone()), is_list(completion.clone())) {
        (false, false) => Ok(Example::Completion {
            prompt: row.string("prompt")?,
            completion: row.string("completion")?,
        }),
        (true, true) => {
            let list = |name: &str, value: Option<Value>| {
                chat::messages(row.column(name), &value.unwrap_or_default())
            };
            let mut messages = list("prompt", prompt)?;
            let learnt_from = messages.len();
            messages.extend(list("completion", completion)?);
            Ok(Example::Chat(Conversation {
                messages,
                learnt_from,
                variables: chat::variables(row)?,
            }))
        }
        (is_list, _) => {
            let (list, text) = if is_list {
                ("prompt", "completion")
            } else {
                ("completion", "prompt")
            };
            Err(RowProblem::WrongType(format!(
                "\"{}\" is a list and \"{}\" is not; both are texts, or both are lists of messages",
                row.column(list),
                row.column(text)
            )))
        }
    }
}
