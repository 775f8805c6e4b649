//! A text that is too long to be tokenised at once.
//!
//! It is tokenised in windows that overlap. Where two of them have the same tokens at the same places over half of
//! the overlap, neither the end of the first nor the beginning of the second is felt, and one goes over into the other
//! about the middle of what they agree on: between two words of the pre-tokenizer, which goes on from its last match
//! whatever came before. A byte-pair encoding in which no token crosses a place is that of its two sides, so within a
//! word that is longer than what the windows share it may be there too; other models look at words as a whole. Where two
//! windows do not agree, the overlap grows, and then the window, up to the whole text.

/// The joint of two windows.
mod joint;
/// Rows from a stream of tokens.
mod rows;
#[cfg(test)]
mod tests;
/// Text from a stream of bytes.
mod utf8;

use crate::data::encode::RowEncoder;
use crate::data::file::Push;
use crate::data::tokens::Framed;
use crate::error::{FinetuneError, RowProblem};
use joint::{Joint, joint};
use rows::Rows;
use std::io::{self, Read};
use tokenizers::ModelWrapper;
use utf8::Utf8;

/// How a text is cut.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Bytes that are tokenised at once.
    pub window: usize,
    /// Bytes that two windows share.
    pub overlap: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            window: 1 << 16,
            overlap: 1 << 11,
        }
    }
}

/// The tokens of a window: ids, and the bytes of it that they stand for.
#[derive(Debug, Default)]
struct Tokens {
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    /// The words of the pre-tokenizer that they belong to.
    words: Vec<Option<u32>>,
    /// The window's bytes.
    len: usize,
}

/// What ends the reading of a text.
enum End {
    /// Something of the text cannot be used.
    Problem(RowProblem),
    /// Something else is wrong.
    Error(FinetuneError),
}

impl From<RowProblem> for End {
    fn from(problem: RowProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<FinetuneError> for End {
    fn from(error: FinetuneError) -> Self {
        Self::Error(error)
    }
}

/// Hands the rows of a text to `push`: consecutive rows of as many tokens as are allowed, each predicting its own next
/// tokens. A last token on its own is left out: nothing predicts it. A byte-order mark at the beginning is no text.
///
/// # Errors
/// Those of `push` and, by `read_error`, those of reading.
pub fn read(
    text: &mut dyn Read,
    encoder: &RowEncoder<'_>,
    windows: Windows,
    read_error: &dyn Fn(io::Error) -> FinetuneError,
    push: &mut Push<'_>,
) -> Result<(), FinetuneError> {
    let mut reader = Reader {
        encoder,
        windows,
        text: Utf8::new(text),
        read_error,
        tokens: Tokens::default(),
        from: 0,
        rows: Rows::new(encoder.max_len),
        push,
    };
    match reader.read() {
        Ok(()) => Ok(()),
        Err(End::Error(error)) => Err(error),
        Err(End::Problem(problem)) => (reader.push)(reader.rows.line, Err(problem)),
    }
}

/// A text on its way.
struct Reader<'a, 'e> {
    encoder: &'a RowEncoder<'e>,
    windows: Windows,
    /// The text from the current window on.
    text: Utf8<'a>,
    read_error: &'a dyn Fn(io::Error) -> FinetuneError,
    /// The tokens of the current window.
    tokens: Tokens,
    /// The first of them that is not in a row yet.
    from: usize,
    rows: Rows,
    push: &'a mut Push<'a>,
}

impl Reader<'_, '_> {
    fn read(&mut self) -> Result<(), End> {
        self.fill(self.windows.window)?;
        let texts = self.encoder.texts();
        let framed = Framed::new(&texts.encode(&self.text.text, true)?);
        self.rows.frame(framed.before, &framed.after);
        self.tokens = self.encode(0)?;
        while !self.text.ended || self.tokens.len < self.text.text.len() {
            self.next_window()?;
        }
        self.hand_on(self.tokens.ids.len())?;
        self.rows.end(framed.after);
        self.push_rows()
    }

    /// Goes over into the next window.
    fn next_window(&mut self) -> Result<(), End> {
        let mut overlap = self.windows.overlap;
        let within_words = matches!(self.encoder.tokenizer.get_model(), ModelWrapper::BPE(_));
        while overlap <= self.tokens.len / 2 {
            if let Some(start) = self
                .tokens
                .start_before(self.tokens.len - overlap, &self.text.text)
            {
                self.fill(start + self.windows.window.max(2 * overlap))?;
                let next = self.encode(start)?;
                if let Some(Joint { left, right }) = joint(&self.tokens, &next, start, within_words)
                    && left > self.from
                {
                    self.hand_on(left)?;
                    self.rows.line += lines(&self.text.text[..start]);
                    self.text.text.drain(..start);
                    (self.tokens, self.from) = (next, right);
                    return self.push_rows();
                }
            }
            overlap *= 2;
        }
        self.fill(2 * self.text.text.len())?;
        self.tokens = self.encode(0)?;
        Ok(())
    }

    /// Puts the tokens before the one at `end` into rows.
    fn hand_on(&mut self, end: usize) -> Result<(), End> {
        for place in self.from..end {
            let id = self.tokens.ids[place];
            if let Err(problem) = self.encoder.check_vocabulary(&[id]) {
                let before = self.tokens.offsets[place].0;
                self.rows.line += lines(&self.text.text[..before]);
                return Err(problem.into());
            }
            self.rows.token(id);
        }
        self.from = end;
        Ok(())
    }

    fn push_rows(&mut self) -> Result<(), End> {
        for row in self.rows.take() {
            (self.push)(self.rows.line, Ok(row))?;
        }
        Ok(())
    }

    fn fill(&mut self, wanted: usize) -> Result<(), End> {
        let filled = self.text.fill(wanted);
        Ok(filled.map_err(self.read_error)?)
    }

    /// Returns the tokens of the text from the byte at `start` on.
    fn encode(&self, start: usize) -> Result<Tokens, End> {
        let text = &self.text.text[start..];
        let encoding = self.encoder.texts().encode(text, false)?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            words: encoding.get_word_ids().to_vec(),
            len: text.len(),
        })
    }
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
