use super::{Finish, Generation, GenerationRequest};
use crate::config::DecoderConfig;
use crate::rope::Rope;
use crate::sampling::Sampler;

/// A prompt on its way.
#[derive(Debug)]
pub struct Continued {
    /// Its place among the requests.
    place: usize,
    /// The row of the cache that it goes on from.
    row: usize,
    prompt: Vec<u32>,
    stop: Vec<u32>,
    max_tokens: usize,
    /// The most tokens that it may have, with those of the prompt.
    capacity: usize,
    sampler: Sampler,
    is_greedy: bool,
    tokens: Vec<u32>,
    /// The tokens that the model has not been given.
    pending: Vec<u32>,
    finish: Option<Finish>,
}

impl Continued {
    /// Begins the request at `place`, of which the model has been given nothing, in `row` of the cache.
    pub fn new(
        place: usize,
        row: usize,
        request: &GenerationRequest<'_>,
        model: &DecoderConfig,
    ) -> Self {
        let GenerationRequest {
            prompt,
            config,
            seed,
        } = *request;
        let stop = config.stop_tokens.as_ref();
        let most = prompt.len().saturating_add(config.max_tokens);
        Self {
            place,
            row,
            prompt: prompt.to_vec(),
            stop: stop.unwrap_or(&model.eos_token_ids).clone(),
            max_tokens: config.max_tokens,
            capacity: model.context_len().min(most),
            sampler: Sampler::new(config, seed, prompt),
            is_greedy: config.is_greedy(),
            tokens: Vec::new(),
            pending: prompt.to_vec(),
            finish: None,
        }
    }

    pub fn place(&self) -> usize {
        self.place
    }

    pub fn row(&self) -> usize {
        self.row
    }

    pub fn set_row(&mut self, row: usize) {
        self.row = row;
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns whether its tokens are the likeliest ones.
    pub fn is_greedy(&self) -> bool {
        self.is_greedy
    }

    pub fn pending(&self) -> &[u32] {
        &self.pending
    }

    /// Returns the tokens that the model has been given.
    pub fn seen(&self) -> Vec<u32> {
        let mut text = [self.prompt.as_slice(), self.tokens.as_slice()].concat();
        text.truncate(self.len() - self.pending.len());
        text
    }

    /// Takes the first tokens of a prompt that has just begun as given.
    pub fn skip(&mut self, tokens: usize) {
        self.pending.drain(..tokens);
    }

    /// Returns whether the model has been given all but the last of its tokens.
    pub fn is_under_way(&self) -> bool {
        !self.tokens.is_empty() && self.pending.len() == 1
    }

    /// Returns the tokens that it has, with those of the prompt.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.tokens.len()
    }

    /// Returns why it goes no further, if it does not.
    pub fn finished(&self) -> Option<Finish> {
        if self.finish.is_some() {
            self.finish
        } else if self.tokens.len() == self.max_tokens {
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

    /// Begins again with all its tokens, in `row` of an empty cache.
    pub fn begin_again(&mut self, row: usize) {
        self.row = row;
        self.pending = [self.prompt.as_slice(), self.tokens.as_slice()].concat();
    }

    /// Chooses the next token from the logits; `None` for one that ends it.
    ///
    /// # Errors
    /// What is wrong with the logits.
    pub fn next(&mut self, logits: Vec<f32>) -> Result<Option<u32>, String> {
        let token = self.sampler.next(logits)?;
        Ok(self.take(token))
    }

    /// Takes a token as the next; `None` for one that ends it.
    pub fn take(&mut self, token: u32) -> Option<u32> {
        if self.stop.contains(&token) {
            self.finish = Some(Finish::Stop);
            return None;
        }
        self.tokens.push(token);
        self.pending = vec![token];
        Some(token)
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
