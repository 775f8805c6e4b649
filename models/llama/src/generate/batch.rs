use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use super::continued::Continued;
use super::{Finish, Generation, GenerationRequest};
use crate::cache::KvCache;
use crate::error::DecoderError;
use crate::model::Decoder;

/// Prompts on their way, side by side. It reads nothing from the device: who drives it does, and may wait as it likes.
pub struct Batch<'a> {
    model: Decoder,
    running: Vec<Continued<'a>>,
    /// What became of each request, by its place.
    found: Vec<Option<Generation>>,
    cache: KvCache,
}

impl<'a> Batch<'a> {
    /// Begins `requests`.
    ///
    /// # Errors
    /// A prompt or a setting that cannot be.
    pub fn begin(
        model: &'a Decoder,
        requests: &'a [GenerationRequest<'a>],
    ) -> Result<Self, DecoderError> {
        let limit = model.config().context_len();
        let mut running = Vec::with_capacity(requests.len());
        for (place, request) in requests.iter().enumerate() {
            request.config.validate()?;
            check_prompt(model, request.prompt, limit)?;
            running.push(Continued::new(place, request, model.config()));
        }
        let model = model.valid();
        Ok(Self {
            found: vec![None; requests.len()],
            cache: room(&model, &running),
            model,
            running,
        })
    }

    /// Returns the logits of the next token of each request that goes on, `[rows, vocab]`; `None` when none does.
    ///
    /// # Errors
    /// Those of [`Decoder::forward_cached`].
    pub fn logits(&mut self) -> Result<Option<Tensor<2>>, DecoderError> {
        let kept = self.let_go();
        if self.running.is_empty() {
            return Ok(None);
        }
        let rope = self.model.rope();
        if self.running.iter().any(|row| row.is_outdated(rope)) {
            self.running.iter_mut().for_each(Continued::begin_again);
            self.cache = room(&self.model, &self.running);
        } else if kept.len() < self.cache.rows() {
            self.cache.select(&kept);
        }
        let ids = input(&self.running, &self.model);
        self.model.forward_cached(ids, &mut self.cache).map(Some)
    }

    /// Chooses the next tokens from the values of [`logits`](Self::logits), and calls `on_token` with the place of each request
    /// and its token.
    ///
    /// # Errors
    /// [`DecoderError::NotFinite`].
    pub fn choose(
        &mut self,
        logits: &[f32],
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), DecoderError> {
        let vocab_size = logits.len() / self.running.len();
        for (continued, logits) in self.running.iter_mut().zip(logits.chunks(vocab_size)) {
            let next = continued.next(logits.to_vec());
            let token = next.map_err(|what| DecoderError::NotFinite {
                tokens: continued.len(),
                what,
                dtype: self.model.dtype(),
            })?;
            if let Some(token) = token
                && on_token(continued.place(), token).is_break()
            {
                continued.end(Finish::Callback);
            }
        }
        Ok(())
    }

    /// Returns what became of each request.
    pub fn into_found(self) -> Vec<Generation> {
        self.found.into_iter().flatten().collect()
    }

    /// Lets go of the requests that are done, and returns the rows of the others.
    fn let_go(&mut self) -> Vec<usize> {
        let mut kept = Vec::new();
        let mut rest = Vec::new();
        for (row, continued) in self.running.drain(..).enumerate() {
            let place = continued.place();
            match continued.finished() {
                Some(finish) => self.found[place] = Some(continued.into_found(finish)),
                None => {
                    kept.push(row);
                    rest.push(continued);
                }
            }
        }
        self.running = rest;
        kept
    }
}

fn check_prompt(model: &Decoder, prompt: &[u32], limit: usize) -> Result<(), DecoderError> {
    if prompt.is_empty() {
        return Err(DecoderError::EmptyPrompt);
    }
    if prompt.len() > limit {
        return Err(DecoderError::ContextLength {
            found: prompt.len(),
            limit,
        });
    }
    let vocab_size = model.config().vocab_size;
    match prompt.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(DecoderError::TokenOutOfRange {
            token: *token,
            vocab_size,
        }),
        None => Ok(()),
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
