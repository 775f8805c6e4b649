//! Contents in parts.

use crate::error::RowProblem;
use crate::template::{ChatTemplate, Message};
use minijinja::value::{Value, ValueKind};

/// Joins contents that are lists of text parts, unless the template goes through them.
///
/// # Errors
/// [`RowProblem::WrongType`] for a part that is no text.
pub fn join(template: &ChatTemplate, messages: &mut [Message]) -> Result<(), RowProblem> {
    for (place, message) in messages.iter_mut().enumerate() {
        let Some(content) = message.get("content") else {
            continue;
        };
        if content.kind() != ValueKind::Seq {
            continue;
        }
        let parts = content.try_iter().into_iter().flatten();
        let texts = parts.map(|part| part_text(&part));
        let text = texts.collect::<Result<String, String>>().map_err(|kind| {
            RowProblem::WrongType(format!(
                "message {}: its content has a part of the type {kind:?}; only text can be learnt",
                place + 1
            ))
        })?;
        if !template.goes_through_parts() {
            *message = message.with_content(Value::from(text));
        }
    }
    Ok(())
}

/// Returns the text of a part, or the type of one that is no text.
fn part_text(part: &Value) -> Result<String, String> {
    if let Some(text) = part.as_str() {
        return Ok(text.to_owned());
    }
    let field = |name: &str| {
        part.get_attr(name)
            .ok()
            .filter(|field| !field.is_undefined())
    };
    let kind = field("type").map_or_else(|| "text".to_owned(), |kind| kind.to_string());
    let text = field("text").filter(|_| kind == "text");
    let text = text.and_then(|text| text.as_str().map(str::to_owned));
    text.ok_or(kind)
}
