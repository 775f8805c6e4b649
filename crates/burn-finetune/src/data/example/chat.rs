use super::Example;
use super::fields::{Fields, elements};
use super::sharegpt;
use crate::data::answers::Conversation;
use crate::error::RowProblem;
use crate::template::{Message, TemplateVariables};
use minijinja::value::{Value, ValueKind};

/// Reads the conversation that goes by `name`.
pub fn read(row: &Fields<'_>, name: &str) -> Result<Example, RowProblem> {
    Ok(Example::Chat(Conversation {
        messages: conversation(row, name)?,
        learnt_from: 0,
        variables: variables(row)?,
    }))
}

/// Reads the messages that go by `name`, with the system prompt beside them, if there is one.
pub fn conversation(row: &Fields<'_>, name: &str) -> Result<Vec<Message>, RowProblem> {
    let mut messages = match row.get(name) {
        // As a table of texts has it.
        Some(value) if value.kind() == ValueKind::String => {
            let parsed = row.json(name).map_err(|_| {
                unreadable(row.column(name), "it is a string, and not a list in JSON")
            })?;
            messages(row.column(name), &parsed.unwrap_or(value))?
        }
        Some(value) => messages(row.column(name), &value)?,
        None => Vec::new(),
    };
    put_system(row, &mut messages)?;
    Ok(messages)
}

/// Puts the system prompt beside a conversation before it, if there is one and the conversation has none.
pub fn put_system(row: &Fields<'_>, messages: &mut Vec<Message>) -> Result<(), RowProblem> {
    if messages
        .first()
        .is_none_or(|first| first.role() != "system")
    {
        let system = row.optional_string("system")?;
        let system = system.filter(|system| !system.trim().is_empty());
        messages.splice(0..0, system.map(|system| Message::new("system", &system)));
    }
    Ok(())
}

/// Reads the messages that stand in a column.
pub fn messages(column: &str, value: &Value) -> Result<Vec<Message>, RowProblem> {
    let items = elements(value)
        .ok_or_else(|| unreadable(column, &format!("it is a {}, not a list", value.kind())))?;
    let messages = items.iter().enumerate().map(|(place, message)| {
        sharegpt::message(message)
            .map_err(|reason| unreadable(column, &format!("message {}: {reason}", place + 1)))
    });
    messages.collect()
}

/// Reads what a template is shown beside the messages.
pub fn variables(row: &Fields<'_>) -> Result<TemplateVariables, RowProblem> {
    let name = "chat_template_kwargs";
    let other = match row.json(name)? {
        Some(switches) => pairs(row.column(name), &switches)?,
        None => Vec::new(),
    };
    Ok(TemplateVariables {
        tools: row.list("tools")?,
        documents: row.list("documents")?,
        other,
    })
}

fn pairs(column: &str, switches: &Value) -> Result<Vec<(String, Value)>, RowProblem> {
    if switches.kind() != ValueKind::Map {
        return Err(RowProblem::WrongType(format!(
            "\"{column}\" is a {}, not an object",
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

fn unreadable(column: &str, reason: &str) -> RowProblem {
    RowProblem::WrongType(format!("\"{column}\" cannot be read: {reason}"))
}
