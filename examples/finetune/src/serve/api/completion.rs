use serde_json::Value;

use super::fields::{Fields, expected};
use super::shared::{Ask, Kind, read as read_shared};
use crate::serve::error::ApiError;
use crate::serve::service::Service;

/// Most tokens of an answer where the request says nothing, as OpenAI's API has it.
const MAX_TOKENS: usize = 16;

const PROMPT: &str = "prompt";

/// Reads a request for the continuation of texts.
///
/// # Errors
/// A parameter that cannot be or is not served.
pub fn read(service: &Service, body: &[u8]) -> Result<Ask, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let max_tokens = fields.count("max_tokens", usize::MAX)?;
    let max_tokens = max_tokens.unwrap_or(MAX_TOKENS);
    let ask = read_shared(Kind::Completion, &mut fields, service, max_tokens)?;
    let prompt = fields.take(PROMPT);
    fields.not_served("echo", |value| value == &Value::Bool(false))?;
    fields.not_served("suffix", |value| value.as_str() == Some(""))?;
    fields.not_served("logprobs", |_| false)?;
    let n = ask.seeds.len() as u64;
    fields.not_served("best_of", |value| value.as_u64() == Some(n))?;
    fields.finish()?;
    let prompt = prompt.ok_or_else(|| ApiError::of(PROMPT, "is missing"))?;
    ask.with_prompts(PROMPT, prompts(prompt, service)?, service)
}

/// Reads a text, several, the tokens of one, or those of several.
fn prompts(given: Value, service: &Service) -> Result<Vec<Vec<u32>>, ApiError> {
    let list = match given {
        Value::String(text) => return Ok(vec![tokens(&text, service)?]),
        Value::Array(list) => list,
        other => return Err(expected(PROMPT, KINDS, &other)),
    };
    if list.is_empty() {
        return Err(ApiError::of(PROMPT, "has nothing in it"));
    }
    if list.iter().all(Value::is_number) {
        return Ok(vec![ids(&list, service)?]);
    }
    let prompts = list.iter().map(|prompt| match prompt {
        Value::String(text) => tokens(text, service),
        Value::Array(list) => ids(list, service),
        other => Err(expected(PROMPT, KINDS, other)),
    });
    prompts.collect()
}

const KINDS: &str = "a string, a list of strings, a list of tokens or a list of such lists";

fn tokens(text: &str, service: &Service) -> Result<Vec<u32>, ApiError> {
    let tokens = service.texts().prompt(text);
    tokens.map_err(|error| ApiError::of(PROMPT, format!("is no tokens: {error}")))
}

fn ids(list: &[Value], service: &Service) -> Result<Vec<u32>, ApiError> {
    let vocab_size = service.vocab_size();
    let ids = list.iter().map(|id| {
        let token = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let token = token.filter(|token| (*token as usize) < vocab_size);
        token.ok_or_else(|| expected(PROMPT, format!("of tokens below {vocab_size}"), id))
    });
    ids.collect()
}
