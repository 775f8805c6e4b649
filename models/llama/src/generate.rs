//! Continuing prompts.

/// A prompt on its way.
mod continued;

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use crate::cache::KvCache;
use crate::error::DecoderError;
use crate::model::Decoder;
use crate::sampling::SamplingConfig;
use continued::Continued;

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

/// A prompt that is to be continued, beside others.
#[derive(Clone, Copy, Debug)]
pub struct GenerationRequest<'a> {
    /// The tokens to go on from.
    pub prompt: &'a [u32],
    /// The choice of tokens, and when to stop.
    pub config: &'a SamplingConfig,
    /// Seed of the choice.
    pub seed: u64,
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
        let request = GenerationRequest {
            prompt,
            config,
            seed,
        };
        let mut found = self.generate_batch(&[request], |_, token| on_token(token))?;
        Ok(found.remove(0))
    }

    /// Continues several prompts side by side, calling `on_token` with the place of a request and each of its new tokens as it is
    /// chosen, and returns what became of each. A request that is done leaves the others to themselves.
    ///
    /// A row sees nothing of the others and has the positions that it has alone, so it gets the tokens that
    /// [`generate`](Self::generate) gives it, up to the rounding of products whose number of rows is another. Prompts are padded
    /// to the longest: those of like lengths belong together.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), for any of the requests.
    pub fn generate_batch(
        &self,
        requests: &[GenerationRequest<'_>],
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, DecoderError> {
        let limit = self.config().context_len();
        let mut running = Vec::with_capacity(requests.len());
        for (place, request) in requests.iter().enumerate() {
            request.config.validate()?;
            self.check_prompt(request.prompt, limit)?;
            running.push(Continued::new(place, request, self.config()));
        }
        let model = self.valid();
        let mut found = vec![None; requests.len()];
        let mut cache = room(&model, &running);
        loop {
            let mut kept = Vec::new();
            let mut rest = Vec::new();
            for (row, continued) in running.into_iter().enumerate() {
                let place = continued.place();
                match continued.finished() {
                    Some(finish) => found[place] = Some(continued.into_found(finish)),
                    None => {
                        kept.push(row);
                        rest.push(continued);
                    }
                }
            }
            running = rest;
            if running.is_empty() {
                break;
            }
            if running.iter().any(|row| row.is_outdated(model.rope())) {
                running.iter_mut().for_each(Continued::begin_again);
                cache = room(&model, &running);
            } else if kept.len() < cache.rows() {
                cache.select(&kept);
            }
            let logits = read(model.forward_cached(input(&running, &model), &mut cache)?)?;
            let vocab_size = logits.len() / running.len();
            for (continued, logits) in running.iter_mut().zip(logits.chunks(vocab_size)) {
                let next = continued.next(logits.to_vec());
                let token = next.map_err(|what| DecoderError::NotFinite {
                    tokens: continued.len(),
                    what,
                    dtype: model.dtype(),
                })?;
                if let Some(token) = token
                    && on_token(continued.place(), token).is_break()
                {
                    continued.end(Finish::Callback);
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
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

/// Returns an empty cache for rows and all that they may become.
fn room(model: &Decoder, rows: &[Continued<'_>]) -> KvCache {
    let lengths: Vec<usize> = rows.iter().map(|row| row.pending().len()).collect();
    let longest = lengths.iter().max().copied().unwrap_or(0);
    let places = rows.iter().zip(&lengths);
    let capacity = places.map(|(row, length)| longest - length + row.capacity());
    KvCache::of_lengths(model, &lengths, capacity.max().unwrap_or(0))
}

/// Returns the next tokens of rows, `[rows, seq]`, padded on the left.
fn input(rows: &[Continued<'_>], model: &Decoder) -> Tensor<2, Int> {
    let longest = rows.iter().map(|row| row.pending().len()).max();
    let longest = longest.unwrap_or(0);
    let mut ids = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        let pending = row.pending();
        // Nothing sees the padding, so any token will do.
        ids.extend(std::iter::repeat_n(0, longest - pending.len()));
        ids.extend(pending.iter().map(|id| *id as i32));
    }
    let ids = TensorData::new(ids, [rows.len(), longest]);
    Tensor::from_data(ids, &model.device())
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
