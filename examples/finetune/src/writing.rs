//! A text that the model writes token by token: what of it can be shown.

use burn_finetune::{RowProblem, TextEncoder, TextStream};

use crate::stop::Stop;

/// A text on its way.
pub struct Writing<'a> {
    stream: TextStream<'a>,
    /// What may be the beginning of the end.
    held: String,
}

/// What a token adds to a text.
#[derive(Debug, Default)]
pub struct Written {
    /// The text that can be shown now.
    pub text: String,
    /// Whether the end was there.
    pub ended: bool,
}

impl<'a> Writing<'a> {
    /// Begins a text.
    pub fn new(texts: &TextEncoder<'a>) -> Self {
        Self {
            stream: texts.stream(),
            held: String::new(),
        }
    }

    /// Returns what `token` adds. Half a letter waits for its other half, and what may become an end for what follows it.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn step(&mut self, token: u32, stop: &Stop) -> Result<Written, RowProblem> {
        let Some(piece) = self.stream.step(token)? else {
            return Ok(Written::default());
        };
        self.held += &piece;
        let shown = stop.shown(&self.held);
        let (len, ended) = (shown.text.len(), shown.ended);
        let rest = self.held.split_off(len);
        let text = std::mem::replace(&mut self.held, rest);
        if ended {
            self.held.clear();
        }
        Ok(Written { text, ended })
    }

    /// Returns what was held back of a text that is done, half a letter included.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn rest(&self) -> Result<String, RowProblem> {
        Ok(self.held.clone() + &self.stream.rest()?)
    }
}
