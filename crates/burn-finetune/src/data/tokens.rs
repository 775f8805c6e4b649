//! Texts as tokens, with one token at their beginning and one at their end whoever wrote it.

use crate::error::RowProblem;
use tensor_files::catch_panic;
use tokenizers::{Encoding, Tokenizer};

/// Turns texts into tokens as a model is given them.
#[derive(Debug, Clone, Copy)]
pub struct TextEncoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends a text.
    pub eos: Option<u32>,
}

/// A text's tokens between those that the tokenizer itself puts around it.
pub(super) struct Framed {
    /// Those before.
    pub before: Vec<u32>,
    /// Its own.
    pub text: Vec<u32>,
    /// Those behind.
    pub after: Vec<u32>,
}

impl Framed {
    /// Sorts the tokens of an encoding. A special token that the text repeats at its beginning or end is left out there.
    pub fn new(encoding: &Encoding) -> Self {
        let (ids, added) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let is_added = |mask: &&u32| **mask == 1;
        let start = added.iter().take_while(is_added).count();
        let end = added.len() - added[start..].iter().rev().take_while(is_added).count();
        let (before, after) = (&ids[..start], &ids[end..]);
        let mut text = &ids[start..end];
        while let (Some(bos), [first, rest @ ..]) = (before.last(), text)
            && bos == first
        {
            text = rest;
        }
        while let (Some(eos), [rest @ .., last]) = (after.first(), text)
            && eos == last
        {
            text = rest;
        }
        let [before, text, after] = [before, text, after].map(<[u32]>::to_vec);
        Self {
            before,
            text,
            after,
        }
    }

    fn ids(self) -> Vec<u32> {
        [self.before, self.text, self.after].concat()
    }
}

impl<'a> TextEncoder<'a> {
    /// Returns the tokens of a prompt, to which an answer is going to be added: what the tokenizer puts behind a text is
    /// not among them.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, RowProblem> {
        let framed = self.framed(text)?;
        Ok([framed.before, framed.text].concat())
    }

    /// Returns the tokens of a text in which a template has written the special ones.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn rendered(&self, text: &str) -> Result<Vec<u32>, RowProblem> {
        Ok(self.encode(text, false)?.get_ids().to_vec())
    }

    /// Returns the text of tokens, without the special ones.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, RowProblem> {
        checked(|| self.tokenizer.decode(tokens, true))
    }

    /// Returns the text of tokens, the special ones written out.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn decode_all(&self, tokens: &[u32]) -> Result<String, RowProblem> {
        checked(|| self.tokenizer.decode(tokens, false))
    }

    /// Begins a text whose tokens come one by one.
    pub fn stream(&self) -> TextStream<'a> {
        let mut stream = self.tokenizer.decode_stream(true);
        TextStream {
            texts: *self,
            step: Box::new(move |token| stream.step(token)),
            untold: Vec::new(),
        }
    }

    /// Returns the tokens of a whole text.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub(crate) fn text(&self, text: &str) -> Result<Vec<u32>, RowProblem> {
        Ok(self.framed(text)?.ids())
    }

    /// Returns the tokens of a prompt and its completion, and how many of them are the prompt's.
    ///
    /// The two are tokenised as one text wherever its tokens begin with the prompt's. Elsewhere they are tokenised apart,
    /// because a model that answers is given the prompt alone.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub(crate) fn completion(
        &self,
        prompt: &str,
        completion: &str,
    ) -> Result<(Vec<u32>, usize), RowProblem> {
        let prompt_ids = self.prompt(prompt)?;
        let joined = self.text(&format!("{prompt}{completion}"))?;
        let len = prompt_ids.len();
        if joined.starts_with(&prompt_ids) {
            return Ok((joined, len));
        }
        let after = Framed::new(&self.encode(completion, true)?).after;
        let mut ids = prompt_ids;
        ids.extend(self.continuation(completion)?);
        if !ids.ends_with(&after) {
            ids.extend(after);
        }
        Ok((ids, len))
    }

    /// Appends the end token to tokens that do not end in it.
    pub(crate) fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(eos) = self.eos
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        ids
    }

    /// Returns the tokens of a text that goes on from another: without the space that SentencePiece puts before a text.
    fn continuation(&self, text: &str) -> Result<Vec<u32>, RowProblem> {
        const LINE: &str = "\n";
        let plain = self.encode(text, false)?.get_ids().to_vec();
        let letter = self.encode("a", false)?;
        let prepends = letter.get_tokens().first();
        if !prepends.is_some_and(|token| token.starts_with('\u{2581}')) {
            return Ok(plain);
        }
        let after_line = self.encode(&format!("{LINE}{text}"), false)?;
        let offsets = after_line.get_offsets().iter();
        let line = offsets.take_while(|(_, end)| *end <= LINE.len()).count();
        let at_boundary = after_line.get_offsets().get(line);
        Ok(match at_boundary {
            Some((start, _)) if *start >= LINE.len() => after_line.get_ids()[line..].to_vec(),
            _ => plain,
        })
    }

    fn framed(&self, text: &str) -> Result<Framed, RowProblem> {
        Ok(Framed::new(&self.encode(text, true)?))
    }

    /// Encodes a text, with what the tokenizer puts around it if `special_tokens`.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub(crate) fn encode(&self, text: &str, special_tokens: bool) -> Result<Encoding, RowProblem> {
        checked(|| self.tokenizer.encode(text, special_tokens))
    }
}

/// A text that grows token by token, without the special ones.
pub struct TextStream<'a> {
    texts: TextEncoder<'a>,
    step: Box<dyn FnMut(u32) -> tokenizers::Result<Option<String>> + 'a>,
    /// Tokens whose text waits for others.
    untold: Vec<u32>,
}

impl TextStream<'_> {
    /// Returns what `token` adds to the text; `None` while a letter lacks bytes that are still to come.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn step(&mut self, token: u32) -> Result<Option<String>, RowProblem> {
        let piece = checked(|| (self.step)(token))?;
        match piece {
            Some(_) => self.untold.clear(),
            None => self.untold.push(token),
        }
        Ok(piece)
    }

    /// Returns what was not returned of a text that is done: a replacement character for the bytes of a letter that others
    /// should have followed.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn rest(&self) -> Result<String, RowProblem> {
        self.texts.decode(&self.untold)
    }
}

/// Runs work of the tokenizers library, which panics where a damaged tokenizer has been read without an error.
fn checked<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, RowProblem> {
    let reason = match catch_panic(work) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!(
            "the tokenizers library fails ({panic}); tokenizer.json is damaged, save the tokenizer again"
        ),
    };
    Err(RowProblem::Tokenizer(reason))
}
