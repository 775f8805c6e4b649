//! From preferences to token rows.
//!
//! A prompt with an answer is tokenised as one; the answer begins where that parts from the prompt alone, as in TRL's
//! `common_prefix_length`. So all of an answer counts, whatever other turns are in it.

use crate::data::answers;
use crate::data::encode::{Encoded, RowEncoder};
use crate::data::example::{Prompted, Verdict};
use crate::data::row::Row;
use crate::error::{RowProblem, RowWarning};
use crate::template::{Message, TemplateVariables};

/// A prompt and answers to it in tokens.
struct Tokens {
    prompt: Vec<u32>,
    /// Each with the prompt before it.
    answers: Vec<Vec<u32>>,
    warnings: Vec<RowWarning>,
}

impl RowEncoder<'_> {
    /// Encodes answers that are judged: a row of both of a pair, or a row an answer that is labelled.
    ///
    /// # Errors
    /// The [`RowProblem`] of the example.
    pub(super) fn preference(
        &self,
        prompted: Prompted,
        verdict: Verdict,
    ) -> Result<Encoded, RowProblem> {
        let Tokens {
            prompt,
            answers,
            mut warnings,
        } = match prompted {
            Prompted::Texts { prompt, answers } => self.text_answers(&prompt, &answers)?,
            Prompted::Chat {
                prompt,
                answers,
                variables,
            } => self.chat_answers(prompt, answers, &variables)?,
        };
        let starts = answers.iter().map(|ids| shared(&prompt, ids));
        let mut starts: Vec<usize> = starts.collect();
        if let Verdict::Pair = verdict {
            let first = starts.iter().copied().min().unwrap_or(0);
            starts.fill(first);
            if answers.windows(2).any(|pair| pair[0] == pair[1]) {
                warnings.push(RowWarning::SameAnswers);
            }
        }
        let mut encoded = Encoded {
            lengths: answers.iter().map(Vec::len).collect(),
            warnings,
            ..Encoded::default()
        };
        self.check_lengths(&encoded.lengths)?;
        let mut sequences = Vec::new();
        for (ids, start) in answers.into_iter().zip(starts) {
            self.check_vocabulary(&ids)?;
            if ids.len() <= start.max(1) {
                return Err(RowProblem::NoTargets("an answer is empty"));
            }
            if ids.len() > self.max_len && start.max(1) < self.max_len {
                encoded.cut.push(ids.len() - self.max_len);
            }
            sequences.push(self.sequence(ids, start));
        }
        match verdict {
            Verdict::Pair => match <[_; 2]>::try_from(sequences) {
                Ok([Some(chosen), Some(rejected)]) => {
                    encoded.rows.push(Row::pair(chosen, &rejected));
                }
                _ => encoded.dropped = 1,
            },
            Verdict::Labels(labels) => {
                for (sequence, desirable) in sequences.into_iter().zip(labels) {
                    match sequence {
                        Some(sequence) => encoded.rows.push(sequence.labelled(desirable)),
                        None => encoded.dropped += 1,
                    }
                }
            }
        }
        Ok(encoded)
    }

    fn text_answers(&self, prompt: &str, answers: &[String]) -> Result<Tokens, RowProblem> {
        let texts = self.texts();
        let mut tokens = Tokens {
            prompt: texts.prompt(prompt)?,
            answers: Vec::new(),
            warnings: Vec::new(),
        };
        for answer in answers {
            let whole = texts.text(&format!("{prompt}{answer}"))?;
            let (ids, warnings) = self.ended(whole);
            tokens.answers.push(ids);
            tokens.warnings = warnings;
        }
        Ok(tokens)
    }

    fn chat_answers(
        &self,
        mut prompt: Vec<Message>,
        answers: Vec<Vec<Message>>,
        variables: &TemplateVariables,
    ) -> Result<Tokens, RowProblem> {
        let template = self.template.ok_or(RowProblem::NoTemplate)?;
        let rendered = |messages: &[Message], asks: bool| {
            let text = template
                .render_with(messages, variables, asks)
                .map_err(answers::template_problem)?;
            self.texts().rendered(&text)
        };
        answers::join_parts(template, &mut prompt)?;
        check_marks(&prompt)?;
        let mut tokens = Tokens {
            prompt: rendered(&prompt, true)?,
            answers: Vec::new(),
            warnings: Vec::new(),
        };
        for mut answer in answers {
            answers::join_parts(template, &mut answer)?;
            check_marks(&answer)?;
            let whole = [prompt.as_slice(), &answer].concat();
            tokens.answers.push(rendered(&whole, false)?);
        }
        Ok(tokens)
    }

    /// Refuses sequences beyond the longest allowed, unless they are cut.
    fn check_lengths(&self, lengths: &[usize]) -> Result<(), RowProblem> {
        match lengths.iter().max() {
            Some(len) if *len > self.max_len && !self.truncate => Err(RowProblem::TooLong {
                len: *len,
                max: self.max_len,
            }),
            _ => Ok(()),
        }
    }

    /// Returns a sequence whose tokens from `start` on are learnt, cut at its end; `None` where its prompt fills what is
    /// allowed.
    fn sequence(&self, mut ids: Vec<u32>, start: usize) -> Option<Row> {
        ids.truncate(self.max_len);
        // Nothing predicts the first token.
        let start = start.max(1);
        let learn = (0..ids.len()).map(|place| place >= start).collect();
        (start < ids.len()).then(|| Row::new(ids, learn))
    }
}

/// Returns how many tokens two lists begin with together.
fn shared(one: &[u32], other: &[u32]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// Refuses marks of what is to be learnt: all of an answer is judged.
fn check_marks(messages: &[Message]) -> Result<(), RowProblem> {
    let marked = messages.iter().find_map(|message| {
        let marks = ["weight", "train"].into_iter();
        marks.clone().find(|mark| message.get(mark).is_some())
    });
    match marked {
        Some(mark) => Err(RowProblem::WrongType(format!(
            "a message has \"{mark}\", which is of --objective sft: all of an answer is judged; take it out"
        ))),
        None => Ok(()),
    }
}
