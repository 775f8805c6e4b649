//! From text to rows of tokens.

use crate::data::answers::{self, Conversation, Learn, Rendering};
use crate::data::columns::Columns;
use crate::data::example::Example;
use crate::data::tokens::TextEncoder;
use crate::error::{RowProblem, RowWarning};
use crate::template::ChatTemplate;
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
    /// The token that ends a text, appended to `text` rows and completions that do not end in it.
    pub eos: Option<u32>,
    /// The tokens that the model has embeddings for; a row with any other is refused. `None` lets all pass.
    pub vocab_size: Option<usize>,
    /// The part of a row that is learnt.
    pub learn: Learn,
    /// The longest row allowed, in tokens.
    pub max_len: usize,
    /// Whether longer rows are cut (at their end) instead of refused.
    pub truncate: bool,
}

/// The rows of one example, and what the user should hear of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// One row, or one for each answer where the chat template shows an answer otherwise once another turn follows.
    pub rows: Vec<Row>,
    /// What is not as the user may expect it.
    pub warnings: Vec<RowWarning>,
}

impl<'a> RowEncoder<'a> {
    /// Encodes one line of a JSONL file: an object with `messages`, with `prompt` and `completion`, or
    /// with `text`.
    ///
    /// - `messages`: the assistant's turns are learnt, nothing else, except for those with `"weight": 0` or
    ///   `"train": false`. `tools`, `documents` and `chat_template_kwargs` go to the template.
    /// - `prompt`, `completion`: the completion and the end token are learnt.
    /// - `text`: everything is learnt, the end token included.
    ///
    /// [`Learn`] says otherwise.
    ///
    /// # Errors
    /// The [`RowProblem`] of the line.
    pub fn json_line(&self, line: &str) -> Result<Encoded, RowProblem> {
        let row = serde_json::from_str(line)
            .map_err(|error: serde_json::Error| RowProblem::NotJson(error.to_string()))?;
        let (example, _) = Example::read(&row, &Columns::default())?;
        self.example(example)
    }

    /// Encodes an example.
    pub(super) fn example(&self, example: Example) -> Result<Encoded, RowProblem> {
        let (rows, warnings) = match example {
            Example::Chat(conversation) => self.chat(conversation)?,
            Example::Completion { prompt, completion } => {
                let (ids, prompt_len) = self.texts().completion(&prompt, &completion)?;
                let (ids, warnings) = self.ended(ids);
                let learnt_from = match self.learn {
                    Learn::Everything => 1,
                    Learn::AllAnswers | Learn::LastAnswer => prompt_len.max(1),
                };
                let learn = (0..ids.len()).map(|place| place >= learnt_from).collect();
                (vec![Row::new(ids, learn)], warnings)
            }
            Example::Text(text) => {
                let (ids, warnings) = self.ended(self.texts().text(&text)?);
                (vec![Row::all(ids)], warnings)
            }
        };
        let several = rows.len() > 1;
        let mut fitting = Vec::with_capacity(rows.len());
        let mut without_targets = None;
        for row in rows {
            match self.fit(row) {
                Ok(row) => fitting.push(row),
                Err(problem @ RowProblem::NoTargets(_)) if several => {
                    without_targets = Some(problem);
                }
                Err(problem) => return Err(problem),
            }
        }
        match without_targets {
            Some(problem) if fitting.is_empty() => Err(problem),
            _ => Ok(Encoded {
                rows: fitting,
                warnings,
            }),
        }
    }

    /// Encodes a conversation.
    fn chat(&self, conversation: Conversation) -> Result<(Vec<Row>, Vec<RowWarning>), RowProblem> {
        let template = self.template.ok_or(RowProblem::NoTemplate)?;
        let (renderings, warnings) = answers::find(template, conversation, self.learn)?;
        let rows = renderings.iter().map(|rendering| self.rendered(rendering));
        Ok((rows.collect::<Result<_, _>>()?, warnings))
    }

    fn rendered(&self, rendering: &Rendering) -> Result<Row, RowProblem> {
        // The template writes the special tokens itself.
        let encoding = self
            .tokenizer
            .encode(rendering.text.as_str(), false)
            .map_err(|error| RowProblem::Tokenizer(error.to_string()))?;
        let learn = answers::tokens_in(&rendering.learnt, encoding.get_offsets());
        Ok(Row::new(encoding.get_ids().to_vec(), learn))
    }

    /// Ends a text's tokens, and warns where no end token is known.
    fn ended(&self, ids: Vec<u32>) -> (Vec<u32>, Vec<RowWarning>) {
        let warnings = if self.eos.is_none() {
            vec![RowWarning::NoEnd]
        } else {
            Vec::new()
        };
        (self.texts().ended(ids), warnings)
    }

    fn texts(&self) -> TextEncoder<'a> {
        TextEncoder {
            tokenizer: self.tokenizer,
            eos: self.eos,
        }
    }

    /// Cuts a whole text into consecutive rows of `max_len` tokens, each predicting its own next tokens. A
    /// last token on its own is left out: nothing predicts it.
    ///
    /// # Errors
    /// [`RowProblem::Tokenizer`], [`RowProblem::OutsideVocabulary`].
    pub fn pack(&self, text: &str) -> Result<Vec<Row>, RowProblem> {
        let ids = self.texts().text(text)?;
        self.check_vocabulary(&ids)?;
        Ok(ids
            .chunks(self.max_len)
            .filter(|ids| ids.len() > 1)
            .map(|ids| Row::all(ids.to_vec()))
            .collect())
    }

    /// Limits a row to `max_len` tokens, and refuses one without targets or with a token that the model does not have.
    fn fit(&self, mut row: Row) -> Result<Row, RowProblem> {
        self.check_vocabulary(&row.ids)?;
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

    fn check_vocabulary(&self, ids: &[u32]) -> Result<(), RowProblem> {
        let Some(size) = self.vocab_size else {
            return Ok(());
        };
        match ids.iter().find(|id| **id as usize >= size) {
            Some(id) => Err(RowProblem::OutsideVocabulary {
                token: self.tokenizer.id_to_token(*id).unwrap_or_default(),
                id: *id,
                size,
            }),
            None => Ok(()),
        }
    }
}
