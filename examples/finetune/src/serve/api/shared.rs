use std::hash::{BuildHasher, RandomState};

use axum::http::StatusCode;
use burn_qlora_llama::SamplingConfig;
use serde_json::Value;

use super::fields::{Fields, expected};
use crate::serve::error::ApiError;
use crate::serve::service::Service;

/// Most texts that end an answer.
const MOST_ENDS: usize = 16;
/// Most bytes of one.
const LONGEST_END: usize = 256;
/// Most choices of a request: those of OpenAI's API.
const MOST_CHOICES: usize = 128;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The next turn of a chat.
    Chat,
    /// The continuation of texts.
    Completion,
}

/// A request whose parameters are read.
#[derive(Debug)]
pub struct Ask {
    /// What is asked for.
    pub kind: Kind,
    /// The number of the model.
    pub model: usize,
    /// The tokens of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// The choice of tokens, and their number. The context may allow less.
    pub sampling: SamplingConfig,
    /// Texts that end an answer.
    pub ends: Vec<String>,
    /// The seed of each choice.
    pub seeds: Vec<u64>,
    /// Whether the answer is sent as it is written.
    pub stream: bool,
    /// Whether what was used is told at the end of a stream.
    pub include_usage: bool,
}

/// Reads what both kinds of requests have, without prompts.
///
/// # Errors
/// A model that is not there, a parameter that cannot be or is not served.
pub fn read(
    kind: Kind,
    fields: &mut Fields,
    service: &Service,
    max_tokens: usize,
) -> Result<Ask, ApiError> {
    let model = fields.text("model")?;
    let model = model.ok_or_else(|| {
        let models = service.models().join(", ");
        ApiError::of("model", format!("is missing; this server has {models}"))
    })?;
    let stream = fields.flag("stream")?;
    let n = fields.count("n", service.limits().max_batch.min(MOST_CHOICES))?;
    let n = n.unwrap_or(1);
    let seed = match fields.take("seed") {
        Some(seed) => whole(&seed).ok_or_else(|| expected("seed", "a whole number", &seed))?,
        None => RandomState::new().hash_one(0),
    };
    let ask = Ask {
        kind,
        model: service.model(&model)?,
        prompts: Vec::new(),
        sampling: sampling(fields)?.with_max_tokens(max_tokens),
        ends: ends(fields)?,
        seeds: (0..n as u64).map(|n| seed.wrapping_add(n)).collect(),
        include_usage: include_usage(fields, stream)?,
        stream,
    };
    let is_zero = |value: &Value| value.as_f64() == Some(0.0);
    let is_empty = |value: &Value| value.as_object().is_some_and(|object| object.is_empty());
    fields.not_served("presence_penalty", is_zero)?;
    fields.not_served("frequency_penalty", is_zero)?;
    fields.not_served("logit_bias", is_empty)?;
    // Whom an answer is for changes nothing in it.
    fields.text("user")?;
    Ok(ask)
}

impl Ask {
    /// Takes prompts in.
    ///
    /// # Errors
    /// More choices than one request may have; a prompt without a token or beyond the context.
    pub fn with_prompts(
        mut self,
        name: &str,
        prompts: Vec<Vec<u32>>,
        service: &Service,
    ) -> Result<Self, ApiError> {
        if prompts.len() * self.seeds.len() > MOST_CHOICES {
            let message =
                format!("and n make more than {MOST_CHOICES} choices; ask for fewer at once");
            return Err(ApiError::of(name, message));
        }
        let context = service.context();
        for prompt in &prompts {
            if prompt.is_empty() {
                return Err(ApiError::of(name, "has no token; give some text"));
            }
            if prompt.len() > context {
                let message = format!(
                    "has {} tokens, and the context is {context}; make it shorter",
                    prompt.len()
                );
                return Err(ApiError::of(name, message).with_code("context_length_exceeded"));
            }
        }
        self.prompts = prompts;
        Ok(self)
    }
}

/// Returns a whole number in any of the ranges that a seed may have.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or(value.as_i64().map(|seed| seed as u64))
}

/// Reads the settings of sampling, with OpenAI's defaults and, beside its own, those that `finetune generate` has.
fn sampling(fields: &mut Fields) -> Result<SamplingConfig, ApiError> {
    let temperature = fields.number("temperature", 0.0..=2.0)?;
    let top_p = fields.number("top_p", f32::MIN_POSITIVE..=1.0)?;
    let min_p = fields.number("min_p", 0.0..=1.0)?;
    let penalty = fields.number("repetition_penalty", f32::MIN_POSITIVE..=100.0)?;
    Ok(SamplingConfig::new()
        .with_temperature(temperature.unwrap_or(1.0))
        .with_top_k(fields.count("top_k", usize::MAX)?)
        .with_top_p(top_p)
        .with_min_p(min_p)
        .with_repetition_penalty(penalty.unwrap_or(1.0)))
}

/// Reads the texts that end an answer.
fn ends(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "stop";
    let ends = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(ends)) => ends,
        Some(end) => vec![end],
    };
    if ends.len() > MOST_ENDS {
        let message = format!("has {} strings, and may have {MOST_ENDS}", ends.len());
        return Err(ApiError::of(NAME, message));
    }
    let ends = ends.into_iter().map(|end| match end {
        Value::String(end) if (1..=LONGEST_END).contains(&end.len()) => Ok(end),
        other => {
            let what = format!("a string of 1 to {LONGEST_END} bytes, or a list of such");
            Err(expected(NAME, what, &other))
        }
    });
    ends.collect()
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    const NAME: &str = "stream_options";
    let Some(options) = fields.take(NAME) else {
        return Ok(false);
    };
    if !stream {
        return Err(ApiError::of(
            NAME,
            "is for streams; set `stream`, or leave it out",
        ));
    }
    let mut options = Fields::of_value(NAME, options)?;
    let include_usage = options.flag("include_usage")?;
    options.not_served("include_obfuscation", |value| value == &Value::Bool(false))?;
    options.finish()?;
    Ok(include_usage)
}

/// Returns the error of a model that cannot chat.
pub fn no_template() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "the model has no chat template; ask /v1/completions, or start the server with --chat-template",
    )
}
