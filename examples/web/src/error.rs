//! What can go wrong on the page.

use burn_qlora::LoraError;
use burn_qlora_llama::DecoderError;
use thiserror::Error;

/// What can go wrong.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Of the model's file, or of generation.
    #[error(transparent)]
    Model(#[from] DecoderError),
    /// Of the adapters.
    #[error(transparent)]
    Adapter(#[from] LoraError),
    /// Of the tokenizer.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[from] tokenizers::Error),
    /// There is nothing to learn.
    #[error(
        "the text has {tokens} tokens, and a row takes {context}: give a longer text or a shorter context"
    )]
    ShortText {
        /// Of the text.
        tokens: usize,
        /// Of a row.
        context: usize,
    },
    /// A setting that cannot be.
    #[error("a context of {context}: give 2 to {limit} tokens")]
    Context {
        /// As given.
        context: usize,
        /// The model's own.
        limit: usize,
    },
    /// The browser hands out no GPU.
    #[error("there is no GPU to compute on: {0}")]
    NoGpu(String),
    /// The GPU has failed.
    #[error("the GPU failed: {0}; load the page anew, or compute on the CPU")]
    Gpu(String),
    /// Training has gone wrong.
    #[error("the loss of step {step} is {loss}: give a smaller learning rate")]
    Diverged {
        /// From 1.
        step: usize,
        /// In nats a token.
        loss: f64,
    },
}
