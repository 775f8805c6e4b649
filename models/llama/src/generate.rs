//! Continuing prompts.

/// Prompts on their way, side by side.
mod batch;
/// A prompt on its way.
mod continued;
/// The likeliest token without the whole head.
mod greedy;
/// Several tokens a step, by what stood before.
mod lookup;
/// Tokens that the model has seen before.
mod start;

use std::ops::ControlFlow;

use burn::tensor::{ExecutionError, TensorData};

use crate::error::DecoderError;
use crate::model::Decoder;
use crate::sampling::SamplingConfig;
pub use batch::GenerationBatch;
pub use lookup::Guesses;
pub use start::{SeenText, Start};

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

    /// Does what [`generate`](Self::generate) does for one prompt after another: as far as `prompt` begins like `seen`, a text that
    /// this model has seen, it is not read again. Leaves in `seen` what the model has seen now.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_on(
        &self,
        prompt: &[u32],
        config: &SamplingConfig,
        seed: u64,
        seen: &mut Option<SeenText>,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, DecoderError> {
        let request = GenerationRequest {
            prompt,
            config,
            seed,
        };
        let start = seen.as_ref().and_then(|seen| seen.start_of(prompt));
        let mut batch = GenerationBatch::begin_from(self, &request, &[(0, seed)], start)?;
        batch.keep_texts();
        *seen = None;
        let mut failed = None;
        while batch.step(|_, token| or_keep(token, &mut failed, &mut on_token))? {}
        failed.map_or(Ok(()), Err)?;
        *seen = batch.take_texts().pop();
        Ok(in_order(batch).remove(0))
    }

    /// Does what [`generate`](Self::generate) does without blocking, for a browser, where WebGPU's results can only be awaited: one
    /// row of logits a token.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub async fn generate_async(
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
        let mut batch = GenerationBatch::begin(self, &[request])?;
        let mut failed = None;
        while let Some(logits) = batch.logits()? {
            let logits = values(logits.into_data_async().await)?;
            batch.choose(&logits, |_, token| {
                or_keep(token, &mut failed, &mut on_token)
            });
            failed.take().map_or(Ok(()), Err)?;
        }
        Ok(in_order(batch).remove(0))
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
        let mut batch = GenerationBatch::begin(self, requests)?;
        let mut failed = None;
        loop {
            let goes_on = batch.step(|place, token| {
                or_keep(token, &mut failed, &mut |token| on_token(place, token))
            })?;
            failed.take().map_or(Ok(()), Err)?;
            if !goes_on {
                return Ok(in_order(batch));
            }
        }
    }
}

/// Tells of a token, or keeps the first error.
fn or_keep(
    token: Result<u32, DecoderError>,
    failed: &mut Option<DecoderError>,
    on_token: &mut impl FnMut(u32) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match token {
        Ok(token) => on_token(token),
        Err(error) => {
            failed.get_or_insert(error);
            ControlFlow::Break(())
        }
    }
}

/// Returns what became of the rows of a batch that is done, in the order of their places.
fn in_order(mut batch: GenerationBatch) -> Vec<Generation> {
    let mut found = batch.take_finished();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, found)| found).collect()
}

/// Returns logits that were read.
fn values(read: Result<TensorData, ExecutionError>) -> Result<Vec<f32>, DecoderError> {
    let device = |reason: String| DecoderError::Device { reason };
    let data = read.map_err(|error| device(error.to_string()))?;
    let data = data.convert::<f32>();
    data.try_into_vec::<f32>()
        .map_err(|error| device(error.to_string()))
}
