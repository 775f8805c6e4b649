use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::api::{Ask, Kind};
use super::error::ApiError;
use super::job::{EndReason, Event};
use super::json::json_response;

/// What an answer says of itself.
pub struct Answer {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    choices: usize,
    prompt_tokens: usize,
    stream: bool,
    include_usage: bool,
}

/// A choice of an answer that is sent as a whole.
#[derive(Clone, Default)]
struct Choice {
    text: String,
    reason: Option<EndReason>,
}

/// Tokens of an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    written: usize,
    /// Those of its prompts that the model had seen before.
    cached: usize,
}

impl Count {
    fn add(&mut self, written: usize, cached: usize) {
        self.written += written;
        self.cached += cached;
    }
}

impl Answer {
    /// Returns the answer to a request for the model `model`.
    pub fn new(ask: &Ask, model: &str) -> Self {
        let prefix = match ask.kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let lengths = ask.prompts.iter().map(Vec::len);
        Self {
            kind: ask.kind,
            id: format!("{prefix}-{:016x}", RandomState::new().hash_one(0)),
            created: since.unwrap_or_default().as_secs(),
            model: model.to_owned(),
            choices: ask.prompts.len() * ask.seeds.len(),
            prompt_tokens: lengths.sum(),
            stream: ask.stream,
            include_usage: ask.include_usage,
        }
    }

    /// Returns the response, once there is something to say.
    ///
    /// # Errors
    /// The job failed before that.
    pub async fn respond(self, mut events: UnboundedReceiver<Event>) -> Result<Response, ApiError> {
        if !self.stream {
            return self.whole(events).await;
        }
        // A job that fails before its first token has the status that it should have.
        let first = events.recv().await.ok_or_else(ApiError::stopping)?;
        if let Event::Failed(failure) = first {
            return Err(failure.into());
        }
        let streamed = Streamed::new(self, events, first);
        Ok(Sse::new(stream::unfold(streamed, Streamed::next)).into_response())
    }

    async fn whole(self, mut events: UnboundedReceiver<Event>) -> Result<Response, ApiError> {
        let mut choices = vec![Choice::default(); self.choices];
        let (mut open, mut count) = (self.choices, Count::default());
        while open > 0 {
            match events.recv().await {
                Some(Event::Text { choice, text }) => choices[choice].text += &text,
                Some(Event::Done {
                    choice,
                    reason,
                    tokens,
                    cached,
                }) => {
                    choices[choice].reason = Some(reason);
                    count.add(tokens, cached);
                    open -= 1;
                }
                Some(Event::Failed(failure)) => return Err(failure.into()),
                None => return Err(ApiError::stopping()),
            }
        }
        let choices = choices.into_iter().enumerate();
        let choices = choices.map(|(index, choice)| {
            let reason = choice.reason.map(EndReason::name);
            match self.kind {
                Kind::Chat => json!({
                    "index": index,
                    "message": { "role": "assistant", "content": choice.text, "refusal": null },
                    "logprobs": null,
                    "finish_reason": reason,
                }),
                Kind::Completion => completion_choice(index, &choice.text, choice.reason),
            }
        });
        let mut body = self.object(choices.collect());
        body["usage"] = self.usage(count);
        Ok(json_response(&body))
    }

    /// Returns an object with these choices: an answer, or a part of one.
    fn object(&self, choices: Vec<Value>) -> Value {
        let object = match (self.kind, self.stream) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn usage(&self, Count { written, cached }: Count) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_details": { "cached_tokens": cached },
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        })
    }

    /// Returns a part of a stream: what is new of a choice.
    fn part(&self, choice: usize, text: &str, reason: Option<EndReason>) -> Value {
        match self.kind {
            Kind::Chat if reason.is_some() => self.delta(choice, json!({}), reason),
            Kind::Chat => self.delta(choice, json!({ "content": text }), None),
            Kind::Completion => self.chunk(completion_choice(choice, text, reason)),
        }
    }

    fn delta(&self, choice: usize, delta: Value, reason: Option<EndReason>) -> Value {
        self.chunk(json!({
            "index": choice,
            "delta": delta,
            "logprobs": null,
            "finish_reason": reason.map(EndReason::name),
        }))
    }

    fn chunk(&self, choice: Value) -> Value {
        let mut chunk = self.object(vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

fn completion_choice(index: usize, text: &str, reason: Option<EndReason>) -> Value {
    json!({
        "index": index,
        "text": text,
        "logprobs": null,
        "finish_reason": reason.map(EndReason::name),
    })
}

/// An answer that is sent as it is written.
struct Streamed {
    answer: Answer,
    events: UnboundedReceiver<Event>,
    /// What is to be sent.
    ready: VecDeque<String>,
    /// The choices that are not done.
    open: usize,
    count: Count,
}

impl Streamed {
    fn new(answer: Answer, events: UnboundedReceiver<Event>, first: Event) -> Self {
        let mut streamed = Self {
            open: answer.choices,
            answer,
            events,
            ready: VecDeque::new(),
            count: Count::default(),
        };
        if streamed.answer.kind == Kind::Chat {
            let role = json!({ "role": "assistant", "content": "" });
            for choice in 0..streamed.open {
                let begins = streamed.answer.delta(choice, role.clone(), None);
                streamed.ready.push_back(begins.to_string());
            }
        }
        streamed.take(first);
        streamed
    }

    /// Returns the next part.
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some((Ok(sse::Event::default().data(data)), self));
            }
            if self.open == 0 {
                return None;
            }
            match self.events.recv().await {
                Some(event) => self.take(event),
                None => self.fail(ApiError::stopping()),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Text { choice, text } => self.send(self.answer.part(choice, &text, None)),
            Event::Done {
                choice,
                reason,
                tokens,
                cached,
            } => {
                self.count.add(tokens, cached);
                self.open -= 1;
                self.send(self.answer.part(choice, "", Some(reason)));
                if self.open == 0 {
                    self.finish();
                }
            }
            Event::Failed(failure) => self.fail(failure.into()),
        }
    }

    fn finish(&mut self) {
        if self.answer.include_usage {
            let mut last = self.answer.object(Vec::new());
            last["usage"] = self.answer.usage(self.count);
            self.send(last);
        }
        self.ready.push_back("[DONE]".to_owned());
    }

    /// Ends the stream with an error, which clients take from an object that has one.
    fn fail(&mut self, error: ApiError) {
        self.send(error.json());
        self.open = 0;
    }

    fn send(&mut self, data: Value) {
        self.ready.push_back(data.to_string());
    }
}
