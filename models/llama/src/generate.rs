//! Continuing a prompt.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use crate::cache::KvCache;
use crate::error::DecoderError;
use crate::model::Decoder;
use crate::sampling::{Sampler, SamplingConfig};

/// The result of [`Decoder::generate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens, without the prompt and without the stop token.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose a stop token.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The model's context is full.
    Context,
    /// The callback asked to stop.
    Callback,
}

impl Decoder {
    /// Continues `prompt`, calling `on_token` with each new token as it is chosen.
    ///
    /// Works on a model with or without autodiff; nothing of a graph is kept. The same seed, device and
    /// prompt give the same tokens.
    ///
    /// # Errors
    /// An empty prompt, a prompt that fills the context, a token outside the vocabulary, a sampling
    /// setting out of range, logits that are no numbers, or a device that fails.
    pub fn generate(
        &self,
        prompt: &[u32],
        config: &SamplingConfig,
        seed: u64,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, DecoderError> {
        config.validate()?;
        let limit = self.config().context_len();
        self.check_prompt(prompt, limit)?;
        let model = self.valid();
        let device = model.device();
        let stop = config
            .stop_tokens
            .as_ref()
            .unwrap_or(&self.config().eos_token_ids);
        let capacity = limit.min(prompt.len().saturating_add(config.max_tokens));
        let mut cache = KvCache::new(&model, 1, capacity);
        let mut sampler = Sampler::new(config, seed, prompt);
        let mut tokens = Vec::new();
        let mut pending = prompt.to_vec();

        let finish = loop {
            if tokens.len() == config.max_tokens {
                break Finish::Length;
            }
            let length = cache.len() + pending.len();
            if length > cache.capacity() {
                break Finish::Context;
            }
            if model.rope().outdates(cache.len(), length) {
                cache.clear();
                pending = [prompt, tokens.as_slice()].concat();
            }
            let ids = pending.iter().map(|id| *id as i32).collect::<Vec<_>>();
            let ids = TensorData::new(ids, [1, pending.len()]);
            let input = Tensor::<2, Int>::from_data(ids, &device);
            let logits = read(model.forward_cached(input, &mut cache)?)?;
            let token = sampler
                .next(logits)
                .map_err(|what| DecoderError::NotFinite {
                    tokens: length,
                    what,
                    dtype: model.dtype(),
                })?;
            if stop.contains(&token) {
                break Finish::Stop;
            }
            tokens.push(token);
            if on_token(token).is_break() {
                break Finish::Callback;
            }
            pending = vec![token];
        };
        Ok(Generation { tokens, finish })
    }

    fn check_prompt(&self, prompt: &[u32], limit: usize) -> Result<(), DecoderError> {
        if prompt.is_empty() {
            return Err(DecoderError::EmptyPrompt);
        }
        if prompt.len() > limit {
            return Err(DecoderError::ContextLength {
                found: prompt.len(),
                limit,
            });
        }
        let vocab_size = self.config().vocab_size;
        match prompt.iter().find(|token| **token as usize >= vocab_size) {
            Some(token) => Err(DecoderError::TokenOutOfRange {
                token: *token,
                vocab_size,
            }),
            None => Ok(()),
        }
    }
}

fn read(logits: Tensor<2>) -> Result<Vec<f32>, DecoderError> {
    let device = |reason: String| DecoderError::Device { reason };
    let data = logits
        .try_into_data()
        .map_err(|error| device(error.to_string()))?;
    let data = data.convert::<f32>();
    data.try_into_vec::<f32>()
        .map_err(|error| device(error.to_string()))
}
