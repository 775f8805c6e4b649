use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use burn_finetune::TextEncoder;
use burn_qlora_llama::{
    Decoder, DecoderError, Finish, Generation, GenerationBatch, GenerationRequest, SeenText, Start,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::job::{EndReason, Event, Failure, Job};
use crate::stop::Stop;
use crate::writing::Writing;

/// How long it sleeps where nothing is to do, at most.
const IDLE: Duration = Duration::from_millis(50);
/// The fewest tokens that a prompt goes on from: of less the copy is not worth while.
const LEAST_SEEN: usize = 8;
/// Tokens of prompts after which those that are being answered get their next token.
const PROMPT_TOKENS: usize = 512;

/// The models and all answers that they write.
///
/// Jobs are taken up in their order as soon as there are rows for them. A prompt goes through the model alone, but for what it begins
/// with that the model has seen, and then joins those that the same model answers, which take each step together. Several models
/// take their steps in turn. Rows that nobody needs keep the last texts.
pub struct Engine<'a> {
    models: Vec<Model>,
    texts: TextEncoder<'a>,
    stop: Stop,
    max_batch: usize,
    waiting: VecDeque<Job>,
    /// The choices that are being written, by their places in the batches.
    rows: BTreeMap<usize, Row<'a>>,
    next_place: usize,
    /// Texts that models have seen, by the models' numbers, the latest last: as many as there are rows that are not in use.
    seen: VecDeque<(usize, SeenText)>,
}

/// A model and what it writes.
struct Model {
    decoder: Decoder,
    batch: GenerationBatch,
}

/// A choice that is being written.
struct Row<'a> {
    choice: usize,
    writing: Writing<'a>,
    stop: Arc<Stop>,
    tokens: usize,
    /// Tokens of the prompt that the model had seen, where no choice before it tells of them.
    cached: usize,
    deadline: Instant,
    events: UnboundedSender<Event>,
    state: State,
    _ticket: Arc<OwnedSemaphorePermit>,
}

/// What is known of a choice beside its text.
enum State {
    GoesOn,
    /// A text ended it.
    Ended,
    /// Nobody wants it, or all has been told of it.
    Over,
}

impl Row<'_> {
    /// Takes the next token, and returns whether more are needed.
    fn take(&mut self, token: Result<u32, DecoderError>) -> ControlFlow<()> {
        if self.events.is_closed() {
            self.state = State::Over;
            return ControlFlow::Break(());
        }
        if Instant::now() > self.deadline {
            return self.fail(Failure::Timeout);
        }
        let token = match token {
            Ok(token) => token,
            Err(error) => return self.fail(Failure::Model(error.to_string())),
        };
        self.tokens += 1;
        let written = match self.writing.step(token, &self.stop) {
            Ok(written) => written,
            Err(error) => return self.fail(Failure::Model(error.to_string())),
        };
        self.tell(written.text);
        if written.ended {
            self.state = State::Ended;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn tell(&self, text: String) {
        if !text.is_empty() {
            let choice = self.choice;
            // Whoever has gone is seen at the next token.
            let _ = self.events.send(Event::Text { choice, text });
        }
    }

    fn fail(&mut self, failure: Failure) -> ControlFlow<()> {
        let _ = self.events.send(Event::Failed(failure));
        self.state = State::Over;
        ControlFlow::Break(())
    }

    /// Tells that it is done.
    fn finish(mut self, finish: Finish) {
        let reason = match (&self.state, finish) {
            (State::Over, _) => return,
            (State::Ended, _) | (_, Finish::Stop | Finish::Callback) => EndReason::Stop,
            (State::GoesOn, Finish::Length | Finish::Context) => EndReason::Length,
        };
        // What was held back of a text that has ended is gone already.
        match self.writing.rest() {
            Ok(rest) => self.tell(rest),
            Err(error) => {
                let _ = self.fail(Failure::Model(error.to_string()));
                return;
            }
        }
        let _ = self.events.send(Event::Done {
            choice: self.choice,
            reason,
            tokens: self.tokens,
            cached: self.cached,
        });
    }
}

impl<'a> Engine<'a> {
    /// Returns an engine of models with the same tokenizer, which writes `max_batch` choices at the same time. `stop` ends every
    /// answer.
    ///
    /// # Errors
    /// None of a model that can be asked.
    pub fn new(
        models: Vec<Decoder>,
        texts: TextEncoder<'a>,
        stop: Stop,
        max_batch: usize,
    ) -> Result<Self, DecoderError> {
        let models = models.into_iter().map(|decoder| {
            let mut batch = GenerationBatch::begin(&decoder, &[])?;
            batch.keep_texts();
            Ok(Model { decoder, batch })
        });
        Ok(Self {
            models: models.collect::<Result<_, DecoderError>>()?,
            texts,
            stop,
            max_batch,
            waiting: VecDeque::new(),
            rows: BTreeMap::new(),
            next_place: 0,
            seen: VecDeque::new(),
        })
    }

    /// Does jobs until there is nobody who could send more and all are done. `look` is called all the while.
    pub fn run(&mut self, jobs: &Receiver<Job>, look: &mut dyn FnMut()) {
        loop {
            look();
            if self.rows.is_empty() && self.waiting.is_empty() {
                match jobs.recv_timeout(IDLE) {
                    Ok(job) => self.waiting.push_back(job),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.waiting.extend(jobs.try_iter());
            self.dismiss();
            self.take_up();
            for model in 0..self.models.len() {
                if self.models[model].batch.rows() > 0 {
                    self.step(model);
                }
            }
        }
    }

    /// Lets go of the jobs that nobody waits for.
    fn dismiss(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|job| {
            let is_late = now > job.deadline;
            if is_late {
                let _ = job.events.send(Event::Failed(Failure::Timeout));
            }
            !is_late && !job.events.is_closed()
        });
    }

    /// Takes up jobs that there are rows for.
    fn take_up(&mut self) {
        let mut newcomers: Vec<Vec<GenerationBatch>> = Vec::new();
        newcomers.resize_with(self.models.len(), Vec::new);
        let mut taken = 0;
        while taken < PROMPT_TOKENS
            && let Some(job) = self.waiting.front()
            && self.rows.len() + job.seeds.len() <= self.max_batch
            && let Some(job) = self.waiting.pop_front()
        {
            taken += job.prompt.len();
            let model = job.model;
            let begun = self.begin(job, &newcomers[model]);
            newcomers[model].extend(begun);
        }
        for (model, newcomers) in self.models.iter_mut().zip(newcomers) {
            if !newcomers.is_empty() {
                model.batch.join(newcomers);
            }
        }
    }

    /// Begins a job beside `newcomers` of its model: its prompt goes through the model, and every choice has its first token. `None`
    /// where no choice goes on.
    fn begin(&mut self, job: Job, newcomers: &[GenerationBatch]) -> Option<GenerationBatch> {
        let Self { models, seen, .. } = self;
        let Model { decoder, batch } = &models[job.model];
        let of_model = seen.iter().filter(|(model, _)| *model == job.model);
        let texts = of_model.map(|(_, text)| text);
        let batches = std::iter::once(batch).chain(newcomers);
        let start = longest_start(&job.prompt, texts, batches);
        let cached = start.map_or(0, |start| start.tokens());
        let first_place = self.next_place;
        self.next_place += job.seeds.len();
        let ways: Vec<(usize, u64)> = (first_place..).zip(job.seeds.iter().copied()).collect();
        let stop = Arc::new(self.stop.clone().with_texts(job.ends));
        for (choice, (place, _)) in ways.iter().enumerate() {
            let row = Row {
                choice: job.first_choice + choice,
                writing: Writing::new(&self.texts),
                stop: stop.clone(),
                tokens: 0,
                cached: if choice == 0 { cached } else { 0 },
                deadline: job.deadline,
                events: job.events.clone(),
                state: State::GoesOn,
                _ticket: job.ticket.clone(),
            };
            self.rows.insert(*place, row);
        }
        let sampling = job.sampling.with_stop_tokens(Some(self.stop.tokens()));
        let request = GenerationRequest {
            prompt: &job.prompt,
            config: &sampling,
            seed: 0,
        };
        let begun = GenerationBatch::begin_from(decoder, &request, &ways, start);
        self.make_room();
        let begun = begun.and_then(|mut batch| {
            batch.keep_texts();
            batch.step(|place, token| take(&mut self.rows, place, token))?;
            Ok(batch)
        });
        match begun {
            Ok(mut batch) => {
                self.finish(batch.take_finished());
                self.keep(job.model, batch.take_texts());
                (batch.rows() > 0).then_some(batch)
            }
            Err(error) => {
                self.fail(ways.into_iter().map(|(place, _)| place), &error);
                None
            }
        }
    }

    /// Writes one token of every choice of a model.
    fn step(&mut self, model: usize) {
        let Self { models, rows, .. } = self;
        let Model { decoder, batch } = &mut models[model];
        let stepped = batch.step(|place, token| take(rows, place, token));
        let (finished, texts) = (batch.take_finished(), batch.take_texts());
        let failed = stepped.err().map(|error| {
            let places = batch.places();
            let empty = GenerationBatch::begin(decoder, &[]);
            *batch = empty.expect("there is no prompt that could be refused");
            batch.keep_texts();
            (places, error)
        });
        self.finish(finished);
        self.keep(model, texts);
        if let Some((places, error)) = failed {
            self.fail(places, &error);
        }
    }

    fn finish(&mut self, finished: Vec<(usize, Generation)>) {
        for (place, found) in finished {
            if let Some(row) = self.rows.remove(&place) {
                row.finish(found.finish);
            }
        }
    }

    /// Keeps texts that a model has seen, and none that one of them begins with.
    fn keep(&mut self, model: usize, texts: Vec<SeenText>) {
        for text in texts {
            self.seen.retain(|(other, seen)| {
                *other != model || !text.tokens().starts_with(seen.tokens())
            });
            self.seen.push_back((model, text));
        }
        self.make_room();
    }

    /// Forgets the oldest texts that rows are in use for.
    fn make_room(&mut self) {
        let most = self.max_batch.saturating_sub(self.rows.len());
        let over = self.seen.len().saturating_sub(most);
        self.seen.drain(..over);
    }

    fn fail(&mut self, places: impl IntoIterator<Item = usize>, error: &DecoderError) {
        for place in places {
            if let Some(mut row) = self.rows.remove(&place) {
                let _ = row.fail(Failure::Model(error.to_string()));
            }
        }
    }
}

/// Returns the longest start of `prompt` that is worth copying.
fn longest_start<'a>(
    prompt: &[u32],
    texts: impl Iterator<Item = &'a SeenText>,
    batches: impl Iterator<Item = &'a GenerationBatch>,
) -> Option<Start<'a>> {
    let of_texts = texts.filter_map(|text| text.start_of(prompt));
    let of_batches = batches.filter_map(|batch| batch.start_of(prompt));
    let longest = of_texts.chain(of_batches).max_by_key(Start::tokens);
    longest.filter(|start| start.tokens() >= LEAST_SEEN)
}

fn take(
    rows: &mut BTreeMap<usize, Row<'_>>,
    place: usize,
    token: Result<u32, DecoderError>,
) -> ControlFlow<()> {
    match rows.get_mut(&place) {
        Some(row) => row.take(token),
        None => ControlFlow::Break(()),
    }
}
