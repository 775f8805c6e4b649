use super::{Finish, Generation, GenerationRequest};
use crate::config::DecoderConfig;
use crate::rope::Rope;
use crate::sampling::Sampler;

/// A prompt on its way.
pub struct Continued<'a> {
    /// Its place among the requests.
    place: usize,
    request: &'a GenerationRequest<'a>,
    stop: &'a [u32],
    /// The most tokens that it may have, with those of the prompt.
    capacity: usize,
    sampler: Sampler<'a>,
    tokens: Vec<u32>,
    /// The tokens that the model has not been given.
    pending: Vec<u32>,
    finish: Option<Finish>,
}

impl<'a> Continued<'a> {
    /// Begins the request at `place`, of which the model has been given nothing.
    pub fn new(place: usize, request: &'a GenerationRequest<'a>, model: &'a DecoderConfig) -> Self {
        let GenerationRequest {
            prompt,
            config,
            seed,
        } = *request;
        let stop = config.stop_tokens.as_ref();
        let most = prompt.len().saturating_add(config.max_tokens);
        Self {
            place,
            request,
            stop: stop.unwrap_or(&model.eos_token_ids),
            capacity: model.context_len().min(most),
            sampler: Sampler::new(config, seed, prompt),
            tokens: Vec::new(),
            pending: prompt.to_vec(),
            finish: None,
        }
    }

    pub fn place(&self) -> usize {
        self.place
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn pending(&self) -> &[u32] {
        &self.pending
    }

    /// Returns the tokens that it has, with those of the prompt.
    pub fn len(&self) -> usize {
        self.request.prompt.len() + self.tokens.len()
    }

    /// Returns why it goes no further, if it does not.
    pub fn finished(&self) -> Option<Finish> {
        if self.finish.is_some() {
            self.finish
        } else if self.tokens.len() == self.request.config.max_tokens {
            Some(Finish::Length)
        } else if self.len() > self.capacity {
            Some(Finish::Context)
        } else {
            None
        }
    }

    /// Returns whether what the model was given of it is worth nothing at its length.
    pub fn is_outdated(&self, rope: &Rope) -> bool {
        let length = self.len();
        rope.outdates(length - self.pending.len(), length)
    }

    /// Begins again with all its tokens.
    pub fn begin_again(&mut self) {
        self.pending = [self.request.prompt, self.tokens.as_slice()].concat();
    }

    /// Chooses the next token from the logits; `None` for one that ends it.
    ///
    /// # Errors
    /// What is wrong with the logits.
    pub fn next(&mut self, logits: Vec<f32>) -> Result<Option<u32>, String> {
        let token = self.sampler.next(logits)?;
        if self.stop.contains(&token) {
            self.finish = Some(Finish::Stop);
            return Ok(None);
        }
        self.tokens.push(token);
        self.pending = vec![token];
        Ok(Some(token))
    }

    /// Ends it.
    pub fn end(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }

    /// Returns what became of it.
    pub fn into_found(self, finish: Finish) -> Generation {
        Generation {
            tokens: self.tokens,
            finish,
        }
    }
}
