//! From text to rows of tokens.

use crate::data::answers::{self, Conversation, Learn, Rendering};
use crate::data::columns::Columns;
use crate::data::example::{Example, Preference};
use crate::data::row::Row;
use crate::data::tokens::TextEncoder;
use crate::error::{RowProblem, RowWarning};
use crate::template::ChatTemplate;
use tokenizers::Tokenizer;

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
    /// Whether longer rows are cut (at their end) instead of refused, and those that have nothing to learn then are left
    /// out.
    pub truncate: bool,
}

/// The rows of one example, and what the user should hear of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// One row, or one for each answer where the chat template shows an answer otherwise once another turn follows.
    pub rows: Vec<Row>,
    /// The tokens of each row that was found, before it was cut or left out.
    pub lengths: Vec<usize>,
    /// The tokens that were cut off each row that is longer than allowed.
    pub cut: Vec<usize>,
    /// The number of rows that were left out because nothing is to be learnt in them within the allowed length.
    pub dropped: usize,
    /// What is not as the user may expect it.
    pub warnings: Vec<RowWarning>,
}

impl Encoded {
    /// Returns an example that is one row.
    pub(super) fn one(row: Row) -> Self {
        Self {
            lengths: vec![row.len()],
            rows: vec![row],
            ..Self::default()
        }
    }
}

impl<'a> RowEncoder<'a> {
    /// Encodes one line of a JSONL file: an object with `messages`, with `prompt` and `completion`, or
    /// with `text`.
    ///
    /// - `messages`: the assistant's turns are learnt, nothing else, except for those with `"weight": 0` or
    ///   `"train": false`. `tools`, `documents` and `chat_template_kwargs` go to the template.
    /// - `prompt`, `completion`: the completion and the end token are learnt; both may be lists of messages.
    /// - `conversations`: as `messages`; in both a message may have `from` and `value` in place of `role` and `content`.
    /// - `instruction`, `output`, perhaps `input`, `system`, `history`: as a conversation.
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
            Example::Preference(Preference { prompted, verdict }) => {
                return self.preference(prompted, verdict);
            }
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
        let may_be_left_out = self.truncate || rows.len() > 1;
        let mut encoded = Encoded {
            warnings,
            ..Encoded::default()
        };
        for row in rows {
            let len = row.len();
            match self.fit(row, may_be_left_out)? {
                Some(row) => {
                    if row.len() < len {
                        encoded.cut.push(len - row.len());
                    }
                    encoded.rows.push(row);
                }
                None => encoded.dropped += 1,
            }
            encoded.lengths.push(len);
        }
        Ok(encoded)
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
        let encoding = self.texts().encode(&rendering.text, false)?;
        let learn = answers::tokens_in(&rendering.learnt, encoding.get_offsets());
        Ok(Row::new(encoding.get_ids().to_vec(), learn))
    }

    /// Ends a text's tokens, and warns where no end token is known.
    pub(super) fn ended(&self, ids: Vec<u32>) -> (Vec<u32>, Vec<RowWarning>) {
        let warnings = if self.eos.is_none() {
            vec![RowWarning::NoEnd]
        } else {
            Vec::new()
        };
        (self.texts().ended(ids), warnings)
    }

    pub(crate) fn texts(&self) -> TextEncoder<'a> {
        TextEncoder {
            tokenizer: self.tokenizer,
            eos: self.eos,
        }
    }

    /// Limits a row to `max_len` tokens; `None` for one without targets where such rows are left out.
    ///
    /// # Errors
    /// [`RowProblem::TooLong`], [`RowProblem::NoTargets`], [`RowProblem::OutsideVocabulary`].
    fn fit(&self, mut row: Row, may_be_left_out: bool) -> Result<Option<Row>, RowProblem> {
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
        if row.targets() > 0 {
            Ok(Some(row))
        } else if may_be_left_out {
            Ok(None)
        } else {
            Err(RowProblem::NoTargets(
                "no token of the answer is within the allowed length",
            ))
        }
    }

    /// Refuses tokens that the model does not have.
    pub(crate) fn check_vocabulary(&self, ids: &[u32]) -> Result<(), RowProblem> {
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
