use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;

use super::continued::Continued;
use super::greedy::Greedy;
use super::start::{SeenText, Start};
use super::{Finish, Generation, GenerationRequest, values};
use crate::cache::KvCache;
use crate::error::DecoderError;
use crate::model::Decoder;

/// Prompts on their way, side by side: they may come at any time and leave when they are done.
///
/// Each has a place, by which the caller knows it. A row sees nothing of the others and has the positions that it has alone.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use burn_qlora_llama::{Decoder, DecoderError, GenerationBatch, GenerationRequest, SamplingConfig};
/// # fn example(model: &Decoder) -> Result<(), DecoderError> {
/// let config = SamplingConfig::new();
/// let begin = |prompt, place| {
///     let request = GenerationRequest { prompt, config: &config, seed: 0 };
///     GenerationBatch::begin_in_ways(model, &request, &[(place, request.seed)])
/// };
/// let mut batch = begin(&[1, 2, 3], 0)?;
/// batch.step(|_, _| ControlFlow::Continue(()))?;
/// let mut newcomer = begin(&[4, 5], 1)?;
/// newcomer.step(|_, _| ControlFlow::Continue(()))?;
/// batch.join(vec![newcomer]);
/// while batch.step(|_, _| ControlFlow::Continue(()))? {}
/// assert_eq!(batch.take_finished().len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GenerationBatch {
    model: Decoder,
    running: Vec<Continued>,
    /// What became of those that are done, with their places.
    finished: Vec<(usize, Generation)>,
    cache: KvCache,
    greedy: Greedy,
    /// What the model has seen of those that are done, where that is kept.
    texts: Option<Vec<SeenText>>,
}

/// What a model says of the next tokens of rows.
enum NextTokens {
    /// The likeliest of each row.
    Likeliest(Vec<u32>),
    /// The logits of each row, `[rows, vocab]`.
    Logits(Vec<f32>),
}

impl GenerationBatch {
    /// Begins `requests`, whose places are their numbers.
    ///
    /// # Errors
    /// A prompt or a setting that cannot be.
    pub fn begin(
        model: &Decoder,
        requests: &[GenerationRequest<'_>],
    ) -> Result<Self, DecoderError> {
        let running = requests.iter().enumerate().map(|(place, request)| {
            check(model, request)?;
            Ok(Continued::new(place, place, request, model.config()))
        });
        let mut batch = Self::of(model, running.collect::<Result<_, DecoderError>>()?);
        batch.number_rows();
        batch.cache = room(&batch.model, &batch.running);
        Ok(batch)
    }

    /// Begins a prompt that goes on in several ways, each with a place and a seed, which takes the place of the request's. The prompt
    /// goes through the model once.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_in_ways(
        model: &Decoder,
        request: &GenerationRequest<'_>,
        ways: &[(usize, u64)],
    ) -> Result<Self, DecoderError> {
        Self::begin_from(model, request, ways, None)
    }

    /// Begins a prompt as [`begin_in_ways`](Self::begin_in_ways) does, behind a start that this very model has seen.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_from(
        model: &Decoder,
        request: &GenerationRequest<'_>,
        ways: &[(usize, u64)],
        start: Option<Start<'_>>,
    ) -> Result<Self, DecoderError> {
        check(model, request)?;
        let running = ways.iter().map(|&(place, seed)| {
            let request = GenerationRequest { seed, ..*request };
            let mut continued = Continued::new(place, 0, &request, model.config());
            continued.skip(start.map_or(0, |start| start.tokens()));
            continued
        });
        let mut batch = Self::of(model, running.collect());
        batch.cache = match start {
            Some(start) => {
                batch.greedy = start.greedy();
                let capacity = batch.running.iter().map(Continued::capacity).max();
                start.copied(capacity.unwrap_or(start.tokens()))
            }
            None => room(&batch.model, &batch.running),
        };
        Ok(batch)
    }

    /// Returns the longest start of `prompt` that a row which goes on has; `None` where none begins like it, and of a model whose
    /// tokens rotate by the length of their text.
    pub fn start_of(&self, prompt: &[u32]) -> Option<Start<'_>> {
        if self.model.rope().depends_on_length() {
            return None;
        }
        let starts = self.running.iter().filter_map(|continued| {
            let row = (&self.cache, continued.row());
            Start::new(row, &self.greedy, &continued.seen(), prompt)
        });
        starts.max_by_key(Start::tokens)
    }

    /// Keeps what the model has seen of rows that are done from now on, a copy each ([`take_texts`](Self::take_texts)); nothing of
    /// a model whose tokens rotate by the length of their text.
    pub fn keep_texts(&mut self) {
        if !self.model.rope().depends_on_length() {
            self.texts.get_or_insert_default();
        }
    }

    /// Returns what the model has seen of the rows that are done and were not returned before, but for those whose logits were no
    /// numbers.
    pub fn take_texts(&mut self) -> Vec<SeenText> {
        self.texts.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Returns a batch without a cache, of those of `running` that may have a token.
    fn of(model: &Decoder, running: Vec<Continued>) -> Self {
        let model = model.valid();
        let mut batch = Self {
            cache: KvCache::new(&model, 0, 0),
            greedy: Greedy::new(&model),
            model,
            running,
            finished: Vec::new(),
            texts: None,
        };
        batch.let_go();
        batch
    }

    /// Returns the number of rows that go on.
    pub fn rows(&self) -> usize {
        self.running.len()
    }

    /// Returns the places of the rows that go on.
    pub fn places(&self) -> Vec<usize> {
        self.running.iter().map(Continued::place).collect()
    }

    /// Takes in the rows of others, which are of the same model. What the cache holds of all of them is copied once.
    pub fn join(&mut self, others: Vec<Self>) {
        let mut parts = Vec::with_capacity(1 + others.len());
        let own = std::mem::replace(&mut self.cache, KvCache::new(&self.model, 0, 0));
        if !self.running.is_empty() {
            parts.push((own, rows(&self.running)));
        }
        for mut other in others {
            self.finished.append(&mut other.finished);
            if let (Some(texts), Some(others)) = (&mut self.texts, &mut other.texts) {
                texts.append(others);
            }
            if !other.running.is_empty() {
                parts.push((other.cache, rows(&other.running)));
                self.running.append(&mut other.running);
            }
        }
        if parts.is_empty() {
            return;
        }
        if !self.running.iter().all(Continued::is_under_way) {
            self.begin_again();
            return;
        }
        // Without padding that no row needs, none reaches beyond the longest that any may become.
        let capacity = self.running.iter().map(Continued::capacity).max();
        self.cache = KvCache::regrouped(parts, capacity.unwrap_or(0));
        self.number_rows();
    }

    /// Gives the model the last tokens of all rows, waits for its logits and chooses the next ones. Calls `on_token` with the place of
    /// each row and its token, or with [`DecoderError::NotFinite`], which ends the row, as the callback can. Returns whether any row
    /// goes on.
    ///
    /// # Errors
    /// Those of [`Decoder::forward_cached`], and a device that fails. Nothing goes on then.
    pub fn step(
        &mut self,
        on_token: impl FnMut(usize, Result<u32, DecoderError>) -> ControlFlow<()>,
    ) -> Result<bool, DecoderError> {
        let device = self.model.device();
        match burn_fused::on_kernel_thread(&device, || self.next_tokens())? {
            Some(NextTokens::Likeliest(tokens)) => self.take(&tokens, on_token),
            Some(NextTokens::Logits(logits)) => self.choose(&logits, on_token),
            None => {}
        }
        Ok(self.rows() > 0)
    }

    /// Returns what the model says of the rows of the cache; `None` when none goes on.
    fn next_tokens(&mut self) -> Result<Option<NextTokens>, DecoderError> {
        let Some(states) = self.states()? else {
            return Ok(None);
        };
        if self.running.iter().all(Continued::is_greedy)
            && let Some(tokens) = self.greedy.likeliest(&self.model, &states)?
        {
            return Ok(Some(NextTokens::Likeliest(tokens)));
        }
        let logits = values(self.model.logits_of_states(states).try_into_data())?;
        Ok(Some(NextTokens::Logits(logits)))
    }

    /// Returns the logits of the next token of each row of the cache, `[rows, vocab]`; `None` when no row goes on. It reads nothing
    /// from the device: who drives the batch does, and may wait as it likes.
    ///
    /// # Errors
    /// Those of [`Decoder::forward_cached`].
    pub(super) fn logits(&mut self) -> Result<Option<Tensor<2>>, DecoderError> {
        let states = self.states()?;
        Ok(states.map(|states| self.model.logits_of_states(states)))
    }

    /// Returns the last block's output for the last token of each row, `[rows, hidden]`, of which norm and head make
    /// [`logits`](Self::logits).
    ///
    /// # Errors
    /// Those of [`Decoder::forward_cached`].
    fn states(&mut self) -> Result<Option<Tensor<2>>, DecoderError> {
        if self.running.is_empty() {
            return Ok(None);
        }
        let rope = self.model.rope();
        if self.running.iter().any(|row| row.is_outdated(rope)) {
            self.begin_again();
        } else if !self.cache.is_empty() {
            self.regroup();
        }
        let x = self.input();
        self.model.last_states(x, 1, &mut self.cache).map(Some)
    }

    /// Chooses the next tokens from the values of [`logits`](Self::logits), and tells of them as [`step`](Self::step) does.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        mut on_token: impl FnMut(usize, Result<u32, DecoderError>) -> ControlFlow<()>,
    ) {
        let vocab_size = logits.len() / self.cache.rows();
        let dtype = self.model.dtype();
        for continued in &mut self.running {
            let start = continued.row() * vocab_size;
            let next = continued.next(logits[start..start + vocab_size].to_vec());
            let told = match next {
                Ok(None) => continue,
                Ok(Some(token)) => on_token(continued.place(), Ok(token)),
                Err(what) => {
                    let tokens = continued.len();
                    let error = DecoderError::NotFinite {
                        tokens,
                        what,
                        dtype,
                    };
                    let _ = on_token(continued.place(), Err(error));
                    // Nothing goes on from its keys.
                    continued.begin_again(continued.row());
                    ControlFlow::Break(())
                }
            };
            if told.is_break() {
                continued.end(Finish::Callback);
            }
        }
        self.let_go();
    }

    /// Takes the next token of each row of the cache, and calls `on_token` as [`choose`](Self::choose) does.
    fn take(
        &mut self,
        tokens: &[u32],
        mut on_token: impl FnMut(usize, Result<u32, DecoderError>) -> ControlFlow<()>,
    ) {
        for continued in &mut self.running {
            if let Some(token) = continued.take(tokens[continued.row()])
                && on_token(continued.place(), Ok(token)).is_break()
            {
                continued.end(Finish::Callback);
            }
        }
        self.let_go();
    }

    /// Returns what became of the rows that are done and were not returned before, with their places.
    pub fn take_finished(&mut self) -> Vec<(usize, Generation)> {
        std::mem::take(&mut self.finished)
    }

    /// Lets go of the rows that are done.
    fn let_go(&mut self) {
        let all = std::mem::take(&mut self.running);
        for continued in all {
            match continued.finished() {
                Some(finish) => {
                    if let Some(texts) = &mut self.texts {
                        texts.extend(SeenText::of(&self.cache, &continued, &self.greedy));
                    }
                    let place = continued.place();
                    self.finished.push((place, continued.into_found(finish)));
                }
                None => self.running.push(continued),
            }
        }
    }

    /// Has the cache hold the rows that go on, each once.
    fn regroup(&mut self) {
        let rows = rows(&self.running);
        if rows.iter().copied().eq(0..self.cache.rows()) {
            return;
        }
        let capacity = self.cache.capacity();
        let cache = std::mem::replace(&mut self.cache, KvCache::new(&self.model, 0, 0));
        self.cache = KvCache::regrouped(vec![(cache, rows)], capacity);
        self.number_rows();
    }

    fn number_rows(&mut self) {
        for (row, continued) in self.running.iter_mut().enumerate() {
            continued.set_row(row);
        }
    }

    fn begin_again(&mut self) {
        for (row, continued) in self.running.iter_mut().enumerate() {
            continued.begin_again(row);
        }
        self.cache = room(&self.model, &self.running);
    }

    /// Returns the embeddings of the next tokens of the rows of the cache, `[rows, seq, hidden]`, padded on the left.
    fn input(&self) -> Tensor<3> {
        // Several ways to go on from an empty cache share the row of their prompt.
        let rows = &self.running[..self.cache.rows()];
        let longest = rows.iter().map(|row| row.pending().len()).max();
        let longest = longest.unwrap_or(0);
        let mut tokens = Vec::with_capacity(rows.len() * longest);
        for row in rows {
            let pending = row.pending();
            // Nothing sees the padding, so any token will do.
            tokens.extend(std::iter::repeat_n(0, longest - pending.len()));
            tokens.extend_from_slice(pending);
        }
        self.model.embed_known(&tokens, [rows.len(), longest])
    }
}

/// Returns the rows of the cache that `running` go on from.
fn rows(running: &[Continued]) -> Vec<usize> {
    running.iter().map(Continued::row).collect()
}

/// Checks that a request can be begun.
///
/// # Errors
/// A setting or a prompt that cannot be.
pub(super) fn check(model: &Decoder, request: &GenerationRequest<'_>) -> Result<(), DecoderError> {
    request.config.validate()?;
    let prompt = request.prompt;
    if prompt.is_empty() {
        return Err(DecoderError::EmptyPrompt);
    }
    let limit = model.config().context_len();
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

/// Returns an empty cache for the rows that `running` go on from, and all that they may become.
pub(super) fn room(model: &Decoder, running: &[Continued]) -> KvCache {
    let rows = running.iter().map(|row| row.row() + 1).max().unwrap_or(0);
    let lengths: Vec<usize> = running[..rows]
        .iter()
        .map(|row| row.pending().len())
        .collect();
    let longest = lengths.iter().max().copied().unwrap_or(0);
    let places = running
        .iter()
        .map(|row| longest - row.pending().len() + row.capacity());
    KvCache::of_lengths(model, &lengths, places.max().unwrap_or(0))
}
