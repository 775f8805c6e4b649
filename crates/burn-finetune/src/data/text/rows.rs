//! Rows from a stream of tokens.

use crate::data::encode::Encoded;
use crate::data::row::Row;

/// Cuts a stream of tokens into rows, with what the tokenizer puts around a text, once at its beginning and end.
#[derive(Debug)]
pub struct Rows {
    /// The line of the text.
    pub line: usize,
    max_len: usize,
    ids: Vec<u32>,
    done: Vec<Encoded>,
    /// The token that a text begins with, until another has come.
    bos: Option<u32>,
    /// The token that a text ends with.
    eos: Option<u32>,
    /// How many of those have come last.
    held: usize,
}

impl Rows {
    /// Returns one without tokens.
    pub fn new(max_len: usize) -> Self {
        Self {
            line: 1,
            max_len,
            ids: Vec::new(),
            done: Vec::new(),
            bos: None,
            eos: None,
            held: 0,
        }
    }

    /// Begins with the tokens `before`; `after` are going to come at the end.
    pub fn frame(&mut self, before: Vec<u32>, after: &[u32]) {
        self.bos = before.last().copied();
        self.eos = after.first().copied();
        before.into_iter().for_each(|id| self.put(id));
    }

    /// Takes a token of the text. One that the text repeats at its beginning or end is left out there.
    pub fn token(&mut self, id: u32) {
        if self.bos == Some(id) {
            return;
        }
        self.bos = None;
        if self.eos == Some(id) {
            self.held += 1;
            return;
        }
        if let Some(eos) = self.eos {
            (0..std::mem::take(&mut self.held)).for_each(|_| self.put(eos));
        }
        self.put(id);
    }

    /// Ends with the tokens `after`.
    pub fn end(&mut self, after: Vec<u32>) {
        after.into_iter().for_each(|id| self.put(id));
        self.flush();
    }

    /// Returns the rows that are full.
    pub fn take(&mut self) -> Vec<Encoded> {
        std::mem::take(&mut self.done)
    }

    fn put(&mut self, id: u32) {
        self.ids.push(id);
        if self.ids.len() == self.max_len {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let ids = std::mem::take(&mut self.ids);
        if ids.len() > 1 {
            self.done.push(Encoded::one(Row::all(ids)));
        }
    }
}
