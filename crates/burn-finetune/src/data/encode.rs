//! From text to rows of tokens.

use crate::data::chat;
use crate::error::RowProblem;
use crate::template::{ChatTemplate, Message};
use minijinja::value::Value;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use tokenizers::Tokenizer;

/// One row of a batch: tokens, and a mask of those that are learnt. A training example, or several that do not
/// see each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Token ids, in order.
    pub ids: Vec<u32>,
    /// Whether the token at the same place counts in the loss. A sequence's first never does: nothing
    /// predicts it.
    pub learn: Vec<bool>,
    /// Places after the first at which another sequence begins, in order.
    more: Vec<usize>,
}

impl Row {
    /// Returns a row of one sequence and the tokens of it that are learnt.
    ///
    /// # Panics
    /// When the two are not of one length.
    pub fn new(ids: Vec<u32>, learn: Vec<bool>) -> Self {
        assert_eq!(ids.len(), learn.len(), "every token is learnt or not");
        Self {
            ids,
            learn,
            more: Vec::new(),
        }
    }

    /// Returns a row whose every token but the first is learnt.
    pub fn all(ids: Vec<u32>) -> Self {
        let learn = (0..ids.len()).map(|place| place > 0).collect();
        Self::new(ids, learn)
    }

    /// Appends the sequences of `other`.
    pub fn append(&mut self, other: &Self) {
        let len = self.len();
        self.more.push(len);
        self.more.extend(other.more.iter().map(|start| len + start));
        self.ids.extend_from_slice(&other.ids);
        self.learn.extend_from_slice(&other.learn);
        if let Some(first) = self.learn.get_mut(len) {
            *first = false;
        }
    }

    /// Returns the places of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.more.iter().copied());
        let ends = self.more.iter().copied().chain([self.len()]);
        starts.zip(ends).map(|(start, end)| start..end)
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the number of tokens that count in the loss.
    pub fn targets(&self) -> usize {
        self.learn.iter().filter(|learn| **learn).count()
    }
}

/// Turns the objects of a JSONL file and plain text into [`Row`]s.
#[derive(Debug, Clone, Copy)]
pub struct RowEncoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's chat template, needed for rows with `messages`.
    pub template: Option<&'a ChatTemplate>,
    /// The token that ends a text, appended to `text` rows and completions.
    pub eos: Option<u32>,
    /// The longest row allowed, in tokens.
    pub max_len: usize,
    /// Whether longer rows are cut (at their end) instead of refused.
    pub truncate: bool,
}

/// The keys that a line of a JSONL file may hold.
#[derive(Deserialize)]
struct Line {
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
    completion: Option<Value>,
    text: Option<Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

impl RowEncoder<'_> {
    /// Encodes one line of a JSONL file: an object with `messages`, with `prompt` and `completion`, or
    /// with `text`.
    ///
    /// - `messages`: the assistant's turns are learnt, nothing else.
    /// - `prompt`, `completion`: the completion and the end token are learnt. The two are tokenised apart,
    ///   since the model will be given a prompt that was tokenised alone.
    /// - `text`: everything is learnt, the end token included.
    ///
    /// # Errors
    /// The [`RowProblem`] of the line.
    pub fn json_line(&self, line: &str) -> Result<Row, RowProblem> {
        let not_json = |error: serde_json::Error| RowProblem::NotJson(error.to_string());
        let value: Value = serde_json::from_str(line).map_err(not_json)?;
        if value.kind() != minijinja::value::ValueKind::Map {
            return Err(RowProblem::UnknownKeys {
                found: format!("no object but a {}", value.kind()),
            });
        }
        let line: Line = serde_json::from_str(line).map_err(|error| {
            RowProblem::WrongType(format!("\"messages\" cannot be read: {error}"))
        })?;
        let row = match line {
            Line {
                messages: Some(messages),
                ..
            } => self.chat(&messages)?,
            Line {
                prompt: Some(prompt),
                completion: Some(completion),
                ..
            } => self.completion(
                string("prompt", &prompt)?,
                string("completion", &completion)?,
            )?,
            Line {
                text: Some(text), ..
            } => self.text(string("text", &text)?)?,
            Line {
                prompt,
                completion,
                other,
                ..
            } => {
                let half = [
                    ("prompt", prompt.is_some()),
                    ("completion", completion.is_some()),
                ]
                .into_iter()
                .filter(|(_, there)| *there)
                .map(|(name, _)| name.to_owned());
                let mut found: Vec<String> = half.chain(other.into_keys()).collect();
                found.sort();
                let found = if found.is_empty() {
                    "none".to_owned()
                } else {
                    found.join(", ")
                };
                return Err(RowProblem::UnknownKeys { found });
            }
        };
        self.fit(row)
    }

    /// Encodes a conversation, of which the assistant's turns are learnt.
    fn chat(&self, messages: &[Message]) -> Result<Row, RowProblem> {
        let template = self.template.ok_or(RowProblem::NoTemplate)?;
        let (text, spans) = chat::assistant_spans(template, messages)?;
        // The template writes the special tokens itself.
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|error| RowProblem::Tokenizer(error.to_string()))?;
        let learn = chat::tokens_in(&spans, encoding.get_offsets());
        Ok(Row::new(encoding.get_ids().to_vec(), learn))
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Row, RowProblem> {
        let mut ids = self.encode(prompt, true)?;
        let prompt_len = ids.len();
        ids.extend(self.encode(completion, false)?);
        ids.extend(self.eos);
        let learn = (0..ids.len())
            .map(|place| place > 0 && place >= prompt_len)
            .collect();
        Ok(Row::new(ids, learn))
    }

    fn text(&self, text: &str) -> Result<Row, RowProblem> {
        let mut ids = self.encode(text, true)?;
        ids.extend(self.eos);
        Ok(Row::all(ids))
    }

    /// Cuts a whole text into consecutive rows of `max_len` tokens, each predicting its own next tokens. A
    /// last token on its own is left out: nothing predicts it.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`].
    pub fn pack(&self, text: &str) -> Result<Vec<Row>, RowProblem> {
        Ok(self
            .encode(text, true)?
            .chunks(self.max_len)
            .filter(|ids| ids.len() > 1)
            .map(|ids| Row::all(ids.to_vec()))
            .collect())
    }

    /// Limits a row to `max_len` tokens, and refuses one without targets.
    fn fit(&self, mut row: Row) -> Result<Row, RowProblem> {
        if row.len() > self.max_len {
            if !self.truncate {
                return Err(RowProblem::TooLong {
                    len: row.len(),
                    max: self.max_len,
                });
            }
            row.ids.truncate(self.max_len);
            row.learn.truncate(self.max_len);
        }
        // The first token is never predicted, whatever it belongs to.
        if let Some(first) = row.learn.first_mut() {
            *first = false;
        }
        if row.targets() == 0 {
            return Err(RowProblem::NoTargets(
                "no token of the answer is within the allowed length",
            ));
        }
        Ok(row)
    }

    fn encode(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, RowProblem> {
        self.tokenizer
            .encode(text, special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| RowProblem::Tokenizer(error.to_string()))
    }
}

/// Returns the string under a key.
fn string<'a>(key: &str, value: &'a Value) -> Result<&'a str, RowProblem> {
    value.as_str().ok_or_else(|| {
        RowProblem::WrongType(format!("\"{key}\" is a {}, not a string", value.kind()))
    })
}
