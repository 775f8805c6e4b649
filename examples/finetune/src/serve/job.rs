use std::sync::Arc;
use std::time::Instant;

use burn_qlora_llama::SamplingConfig;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

/// A prompt to be continued.
#[derive(Debug)]
pub struct Job {
    /// The number of the model.
    pub model: usize,
    /// The tokens to go on from.
    pub prompt: Vec<u32>,
    /// The choice of tokens, and their number.
    pub sampling: SamplingConfig,
    /// Texts that end an answer, beside those that the model was taught.
    pub ends: Vec<String>,
    /// The seed of each choice.
    pub seeds: Vec<u64>,
    /// The number of the first choice.
    pub first_choice: usize,
    /// When nobody waits for it any more.
    pub deadline: Instant,
    /// Where to tell of it. It holds no more than the tokens of an answer, so whoever reads slowly holds nobody up.
    pub events: UnboundedSender<Event>,
    /// The place among the requests, which goes with the last job of a request.
    pub ticket: Arc<OwnedSemaphorePermit>,
}

/// What becomes of a job.
#[derive(Debug)]
pub enum Event {
    /// A choice has more text.
    Text {
        /// Its number.
        choice: usize,
        /// What is new.
        text: String,
    },
    /// A choice is done.
    Done {
        /// Its number.
        choice: usize,
        /// Why.
        reason: EndReason,
        /// The tokens that were written.
        tokens: usize,
        /// Tokens of the prompt that the model had seen before, told with one choice of each prompt.
        cached: usize,
    },
    /// There is no more of it.
    Failed(Failure),
}

/// Why a choice ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model came to an end, or one that the request names.
    Stop,
    /// As many tokens as were asked for, or as the context takes.
    Length,
}

impl EndReason {
    /// Returns its name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Why a job fails.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It took too long.
    Timeout,
    /// The model failed.
    Model(String),
}
