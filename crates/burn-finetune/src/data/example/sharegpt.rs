use super::fields::{elements, key};
use crate::template::{Message, object};
use minijinja::value::{Value, ValueKind};

/// The names under `from`, and the roles they are: those of ShareGPT's exports, and of LLaMA-Factory's and axolotl's rows.
const ROLES: [(&str, &str); 19] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("bot", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("developer", "developer"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("tool_response", "tool"),
    ("function", "tool"),
    ("function_response", "tool"),
    ("ipython", "tool"),
    (CALL, "assistant"),
    ("tool_call", "assistant"),
];

/// The answer that calls a function.
const CALL: &str = "function_call";

/// Reads a message of `role` and `content`, or one of `from` and `value`.
///
/// # Errors
/// A line that says why it is none.
pub fn message(value: &Value) -> Result<Message, String> {
    if value.kind() != ValueKind::Map || key(value, "role").is_some() {
        return Message::from_value(value);
    }
    let Some(from) = key(value, "from") else {
        return Message::from_value(value);
    };
    let from = from
        .as_str()
        .ok_or_else(|| format!("its \"from\" is a {}, not a string", from.kind()))?;
    let role = ROLES.iter().find(|(name, _)| *name == from);
    let Some((name, role)) = role else {
        let names = ROLES.map(|(name, _)| name);
        return Err(format!(
            "its \"from\" is {from:?}, which is none of {}",
            names.join(", ")
        ));
    };
    let said = key(value, "value").or_else(|| key(value, "content"));
    let mut fields = vec![("role".to_owned(), Value::from(*role))];
    if *name == CALL || *name == "tool_call" {
        let said = said.ok_or("it has no \"value\"")?;
        fields.push(("tool_calls".to_owned(), calls(&said)?));
    } else if let Some(said) = said {
        fields.push(("content".to_owned(), said));
    }
    let others = value.try_iter().map_err(|error| error.to_string())?;
    for name in others {
        if !["from", "value", "content"]
            .iter()
            .any(|known| name.as_str() == Some(known))
        {
            let other = value.get_item(&name).map_err(|error| error.to_string())?;
            fields.push((name.to_string(), other));
        }
    }
    Message::from_value(&object(fields))
}

/// Returns the calls that a text describes in JSON, as templates know them.
fn calls(said: &Value) -> Result<Value, String> {
    let parsed = match said.as_str() {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("its call of a function is not JSON: {error}"))?,
        None => said.clone(),
    };
    let calls = elements(&parsed).unwrap_or_else(|| vec![parsed]);
    let calls = calls.into_iter().map(|call| {
        if key(&call, "name").is_none() {
            return Err("its call of a function has no \"name\"".to_owned());
        }
        let fields = [("type", Value::from("function")), ("function", call)];
        Ok(object(
            fields.map(|(name, value)| (name.to_owned(), value)).into(),
        ))
    });
    calls
        .collect::<Result<Vec<Value>, String>>()
        .map(Value::from)
}
