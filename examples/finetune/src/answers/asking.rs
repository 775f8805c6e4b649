use anyhow::Result;
use burn_qlora_llama::SamplingConfig;

use super::{Answers, Question};

/// A question on its way: what the model has answered so far.
pub struct Asking<'a> {
    answers: &'a Answers<'a>,
    expected: String,
    max_tokens: usize,
    tokens: Vec<u32>,
}

impl<'a> Asking<'a> {
    /// Begins a question.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn new(answers: &'a Answers<'a>, question: &Question) -> Result<Self> {
        let Answers {
            texts,
            stop,
            answering,
            ..
        } = answers;
        // What follows the end of a turn, a line break say, is the template's and not the answer's.
        let expected = texts.decode(stop.answer(&question.answer))?;
        // Two tokens more than expected: one to see that it ends, one for a text split otherwise.
        let to_compare = question.answer.len() + 2;
        let written = answering.written.as_ref();
        let written = written.map_or(0, |written| written.max_tokens);
        Ok(Self {
            answers,
            expected: stop.cut(&expected).to_owned(),
            max_tokens: match answering.exact_match {
                true => to_compare.max(written),
                false => written,
            },
            tokens: Vec::new(),
        })
    }

    /// Returns how it is answered.
    pub fn sampling(&self) -> SamplingConfig {
        SamplingConfig::new()
            .with_max_tokens(self.max_tokens)
            .with_stop_tokens(Some(self.answers.stop.tokens()))
    }

    /// Takes the next token of the answer, and returns whether more of them are needed.
    pub fn goes_on(&mut self, token: u32) -> bool {
        self.tokens.push(token);
        let Answers {
            texts,
            stop,
            answering,
            ..
        } = self.answers;
        let Ok(text) = texts.decode(&self.tokens) else {
            return true;
        };
        let shown = stop.shown(&text);
        // Half a character shows as U+FFFD until its other half comes.
        let so_far = shown.text.trim_end_matches('\u{fffd}');
        let is_needed = answering.written.is_some() || self.expected.starts_with(so_far);
        !shown.ended && is_needed
    }

    /// Returns the text that was expected.
    pub fn into_expected(self) -> String {
        self.expected
    }
}
