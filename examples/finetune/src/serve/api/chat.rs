use burn_finetune::Message;
use serde_json::Value;

use super::fields::{Fields, expected};
use super::shared::{Ask, Kind, no_template, read as read_shared};
use crate::serve::error::ApiError;
use crate::serve::service::Service;

/// Reads a request for the next turn of a chat.
///
/// # Errors
/// A parameter that cannot be or is not served; messages that the model's chat template refuses.
pub fn read(service: &Service, body: &[u8]) -> Result<Ask, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let max_tokens = max_tokens(&mut fields)?;
    let ask = read_shared(Kind::Chat, &mut fields, service, max_tokens)?;
    let given = fields.take("messages");
    refuse_what_is_not_served(&mut fields)?;
    fields.finish()?;
    let given = given.ok_or_else(|| ApiError::of(MESSAGES, "is missing"))?;
    let prompt = prompt(&messages(given)?, service)?;
    ask.with_prompts(MESSAGES, vec![prompt], service)
}

const MESSAGES: &str = "messages";

/// Returns the most tokens of an answer: as many as the context takes by default.
fn max_tokens(fields: &mut Fields) -> Result<usize, ApiError> {
    let old = fields.count("max_tokens", usize::MAX)?;
    let new = fields.count("max_completion_tokens", usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::of(
            "max_tokens",
            "and `max_completion_tokens` are not the same; give one of them",
        )),
        _ => Ok(new.or(old).unwrap_or(usize::MAX)),
    }
}

fn refuse_what_is_not_served(fields: &mut Fields) -> Result<(), ApiError> {
    let is = |wanted: &'static [&'static str]| {
        move |value: &Value| value.as_str().is_some_and(|text| wanted.contains(&text))
    };
    let is_off = |value: &Value| value == &Value::Bool(false);
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.not_served("logprobs", is_off)?;
    fields.not_served("top_logprobs", |value| value.as_u64() == Some(0))?;
    fields.not_served("response_format", |value| {
        let object = value.as_object();
        object.is_some_and(|object| {
            object.len() == 1 && object.get("type").is_some_and(is(&["text"]))
        })
    })?;
    fields.not_served("tools", is_empty)?;
    fields.not_served("functions", is_empty)?;
    // Without tools these say nothing.
    fields.not_served("tool_choice", is(&["none", "auto"]))?;
    fields.not_served("function_call", is(&["none", "auto"]))?;
    fields.not_served("parallel_tool_calls", Value::is_boolean)?;
    fields.not_served("modalities", |value| value == &Value::from(vec!["text"]))?;
    for name in [
        "audio",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
    ] {
        fields.not_served(name, |_| false)?;
    }
    fields.not_served("store", is_off)?;
    fields.not_served("service_tier", is(&["auto", "default"]))
}

/// Reads the turns.
fn messages(given: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(given) = given else {
        return Err(expected(MESSAGES, "a list", &given));
    };
    if given.is_empty() {
        return Err(ApiError::of(MESSAGES, "has no message; give at least one"));
    }
    let read = given.into_iter().enumerate();
    read.map(|(place, given)| message(Fields::of_value(&format!("{MESSAGES}[{place}]"), given)?))
        .collect()
}

fn message(mut fields: Fields) -> Result<Message, ApiError> {
    let missing = |fields: &Fields, name| ApiError::of(&fields.name(name), "is missing");
    let role = fields.text("role")?;
    let role = role.ok_or_else(|| missing(&fields, "role"))?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role.as_str(),
        // The name that OpenAI's newer models have for it.
        "developer" => "system",
        other => {
            let message = format!(
                "is {other:?}, and this server knows system, developer, user and assistant"
            );
            return Err(ApiError::of(&fields.name("role"), message));
        }
    };
    let content = fields.take("content");
    let content = content.ok_or_else(|| missing(&fields, "content"))?;
    let content = text(&fields.name("content"), content)?;
    // What clients send back of an answer, where it says nothing.
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.not_served("annotations", is_empty)?;
    fields.not_served("tool_calls", is_empty)?;
    for name in ["name", "refusal", "audio", "function_call", "tool_call_id"] {
        fields.not_served(name, |_| false)?;
    }
    fields.finish()?;
    Ok(Message::new(role, &content))
}

/// Returns a content as one text: its parts stand on lines of their own.
fn text(name: &str, content: Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(expected(name, "a string or a list of parts", &other)),
    };
    let parts = parts.into_iter().enumerate().map(|(place, part)| {
        let mut part = Fields::of_value(&format!("{name}[{place}]"), part)?;
        let kind = part.text("type")?;
        if kind.as_deref() != Some("text") {
            let message = "must be \"text\": this server takes nothing else";
            return Err(ApiError::of(&part.name("type"), message));
        }
        let text = part.text("text")?;
        let text = text.ok_or_else(|| ApiError::of(&part.name("text"), "is missing"))?;
        part.finish()?;
        Ok(text)
    });
    let parts: Vec<String> = parts.collect::<Result<_, _>>()?;
    Ok(parts.join("\n"))
}

/// Returns the tokens of a chat up to where the answer begins, as `finetune generate --chat` has them.
fn prompt(messages: &[Message], service: &Service) -> Result<Vec<u32>, ApiError> {
    let template = service.template().ok_or_else(no_template)?;
    if messages.iter().any(|message| message.role() == "system") {
        service
            .takes_system()
            .map_err(|why| ApiError::of(MESSAGES, format!("have a system prompt: {why}")))?;
    }
    let text = template.render(messages, true);
    let text = text.map_err(|error| ApiError::of(MESSAGES, format!("are refused: {error}")))?;
    let tokens = service.texts().rendered(&text);
    tokens.map_err(|error| ApiError::of(MESSAGES, format!("are no tokens: {error}")))
}
