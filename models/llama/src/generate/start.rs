use super::continued::Continued;
use super::greedy::Greedy;
use crate::cache::KvCache;

/// Tokens at the end of a prompt that the model is given in any case. The last has the next one to tell; they are more than the few
/// rows that the CPU's kernels multiply in another order of additions, so that their numbers have the bits that they have where the
/// model is given the whole prompt.
const LEFT: usize = qlora_cpu::dense::FEW_ROWS + 1;

/// A text that a model has seen: its tokens, their keys and values, and what its likeliest tokens were found by.
///
/// A prompt that begins alike goes on from there ([`GenerationBatch::begin_from`](super::GenerationBatch::begin_from)), such as the
/// next turn of a chat.
#[derive(Debug)]
pub struct SeenText {
    tokens: Vec<u32>,
    /// One row, without padding.
    cache: KvCache,
    greedy: Greedy,
}

impl SeenText {
    /// Copies what `cache` holds of a prompt on its way; `None` where that is nothing.
    pub(super) fn of(cache: &KvCache, continued: &Continued, greedy: &Greedy) -> Option<Self> {
        let tokens = continued.seen();
        let len = tokens.len();
        (len > 0).then(|| Self {
            cache: cache.start_of(continued.row(), len, len),
            greedy: greedy.clone(),
            tokens,
        })
    }

    /// Returns the tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns what `prompt` can go on from; `None` where it begins otherwise.
    pub fn start_of(&self, prompt: &[u32]) -> Option<Start<'_>> {
        let row = (&self.cache, 0);
        Start::new(row, &self.greedy, &self.tokens, prompt)
    }
}

/// The tokens that a prompt begins with and that a model has seen.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    cache: &'a KvCache,
    row: usize,
    greedy: &'a Greedy,
    tokens: usize,
}

impl<'a> Start<'a> {
    /// Returns what `prompt` has in common with the tokens of a row of `cache`, but for its last [`LEFT`].
    pub(super) fn new(
        (cache, row): (&'a KvCache, usize),
        greedy: &'a Greedy,
        seen: &[u32],
        prompt: &[u32],
    ) -> Option<Self> {
        let but_last = &prompt[..prompt.len().saturating_sub(LEFT)];
        let pairs = seen.iter().zip(but_last);
        let tokens = pairs.take_while(|(seen, token)| seen == token).count();
        (tokens > 0).then_some(Self {
            cache,
            row,
            greedy,
            tokens,
        })
    }

    /// Returns how many they are.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns what finds likeliest tokens.
    pub(super) fn greedy(&self) -> Greedy {
        self.greedy.clone()
    }

    /// Returns a cache of them, with places for `capacity`.
    pub(super) fn copied(&self, capacity: usize) -> KvCache {
        self.cache.start_of(self.row, self.tokens, capacity)
    }
}
