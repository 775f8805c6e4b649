use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::http::StatusCode;
use burn_finetune::{ChatTemplate, TextEncoder};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::api::Ask;
use super::error::ApiError;
use super::guard::Guard;
use super::job::{Event, Job};
use crate::opened_model::OpenedModel;
use crate::run::ServeLimits;
use crate::system_prompt;

/// What all requests share.
pub struct Service {
    opened: Arc<OpenedModel>,
    /// The names of the models, in the engine's order.
    models: Vec<String>,
    context: usize,
    limits: ServeLimits,
    guard: Guard,
    jobs: Sender<Job>,
    /// One for each request at the same time.
    tickets: Arc<Semaphore>,
    /// Why no system prompt is shown to the model, if that is so.
    takes_system: OnceLock<Result<(), String>>,
}

/// A request that has a place among those that are served.
pub type Ticket = Arc<OwnedSemaphorePermit>;

impl Service {
    /// Returns what requests for `models` share, whose jobs go to `jobs`.
    pub fn new(
        opened: Arc<OpenedModel>,
        models: Vec<String>,
        limits: ServeLimits,
        key: Option<String>,
        jobs: Sender<Job>,
    ) -> Self {
        let context = opened.checkpoint.config().context_len();
        Self {
            context: limits.context.unwrap_or(context).min(context),
            tickets: Arc::new(Semaphore::new(most_requests(&limits))),
            guard: Guard::new(key),
            takes_system: OnceLock::new(),
            opened,
            models,
            limits,
            jobs,
        }
    }

    /// Returns the names of the models.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Returns the number of a model.
    ///
    /// # Errors
    /// Status 404 for one that is not there.
    pub fn model(&self, name: &str) -> Result<usize, ApiError> {
        let found = self.models.iter().position(|model| model == name);
        found.ok_or_else(|| {
            let message = format!(
                "there is no model {name:?} here; this server has {}",
                self.models.join(", ")
            );
            ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found")
        })
    }

    /// Returns the most tokens of a prompt and its answer.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Returns the number of tokens that there are.
    pub fn vocab_size(&self) -> usize {
        self.opened.checkpoint.config().vocab_size
    }

    /// Returns what a request may take.
    pub fn limits(&self) -> &ServeLimits {
        &self.limits
    }

    /// Returns who may ask.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Returns what turns texts into tokens.
    pub fn texts(&self) -> TextEncoder<'_> {
        self.opened.texts()
    }

    /// Returns the model's chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.opened.template.as_ref()
    }

    /// Checks that the chat template shows the model a system prompt.
    ///
    /// # Errors
    /// Why it does not.
    pub fn takes_system(&self) -> Result<(), &str> {
        let checked = self.takes_system.get_or_init(|| match self.template() {
            Some(template) => system_prompt::check(template, "Be kind."),
            None => Ok(()),
        });
        checked.as_ref().copied().map_err(String::as_str)
    }

    /// Returns the number of requests that are being served.
    pub fn requests(&self) -> usize {
        most_requests(&self.limits) - self.tickets.available_permits()
    }

    /// Gives a request its place.
    ///
    /// # Errors
    /// Status 429 where there is none.
    pub fn ticket(&self) -> Result<Ticket, ApiError> {
        let ticket = self.tickets.clone().try_acquire_owned();
        ticket.map(Arc::new).map_err(|_| {
            let message = format!(
                "the server has {} requests already, which is as many as it takes; ask again later",
                self.requests()
            );
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
        })
    }

    /// Has the engine do what is asked for, and returns what becomes of it.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn start(
        &self,
        ask: &Ask,
        ticket: Ticket,
        deadline: Instant,
    ) -> Result<UnboundedReceiver<Event>, ApiError> {
        let (events, told) = unbounded_channel();
        for (place, prompt) in ask.prompts.iter().enumerate() {
            // The last token of an answer goes through no model.
            let room = self.context + 1 - prompt.len();
            let max_tokens = ask.sampling.max_tokens.min(room);
            let job = Job {
                model: ask.model,
                prompt: prompt.clone(),
                sampling: ask.sampling.clone().with_max_tokens(max_tokens),
                ends: ask.ends.clone(),
                seeds: ask.seeds.clone(),
                first_choice: place * ask.seeds.len(),
                deadline,
                events: events.clone(),
                ticket: ticket.clone(),
            };
            self.jobs.send(job).map_err(|_| ApiError::stopping())?;
        }
        Ok(told)
    }
}

/// Returns the most requests at the same time: those that are answered and those that wait.
fn most_requests(limits: &ServeLimits) -> usize {
    let all = limits.max_batch.saturating_add(limits.max_queue);
    all.min(Semaphore::MAX_PERMITS)
}
