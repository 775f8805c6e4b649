use std::fmt;
use std::time::{Duration, Instant};

use burn_qlora_llama::Guesses;

/// Tokens and time of all turns: until the first token of an answer, which is the prompt's, and from there on.
#[derive(Default)]
pub struct Rates {
    last: Option<Instant>,
    is_first: bool,
    prompt: Rate,
    /// What was written after the first token of each answer.
    further: Rate,
    written: usize,
    guesses: Option<Guesses>,
}

#[derive(Clone, Copy, Default)]
struct Rate {
    tokens: usize,
    time: Duration,
}

impl Rates {
    /// Begins a turn with a prompt of `tokens` tokens.
    pub fn begin(&mut self, tokens: usize) {
        self.prompt.tokens += tokens;
        self.is_first = true;
        self.last = Some(Instant::now());
    }

    /// Counts a token that was written.
    pub fn token(&mut self) {
        let now = Instant::now();
        let time = self.last.map_or(Duration::ZERO, |last| now - last);
        self.last = Some(now);
        self.written += 1;
        if std::mem::take(&mut self.is_first) {
            self.prompt.time += time;
        } else {
            self.further.tokens += 1;
            self.further.time += time;
        }
    }

    /// Counts the guesses of a turn.
    pub fn guesses(&mut self, of_turn: Guesses) {
        let count = self.guesses.get_or_insert_default();
        count.made += of_turn.made;
        count.kept += of_turn.kept;
    }

    /// Returns whether anything was written.
    pub fn any(&self) -> bool {
        self.written > 0
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            prompt, further, ..
        } = self;
        write!(f, "prompt: {} tokens{prompt}", prompt.tokens)?;
        write!(f, "; written: {} tokens{further}", self.written)?;
        if let Some(Guesses { made, kept }) = self.guesses {
            write!(f, "; {kept} of {made} guesses kept")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tokens == 0 || self.time.is_zero() {
            return Ok(());
        }
        let rate = self.tokens as f64 / self.time.as_secs_f64();
        write!(f, ", {rate:.1} tokens/s")
    }
}
