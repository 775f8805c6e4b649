use super::question::Question;
use super::task::ChoiceTask;
use crate::data::RowEncoder;
use crate::error::RowProblem;
use burn_qlora::Continuations;

impl RowEncoder<'_> {
    /// Encodes a question with `context` before its choices: all of them behind one text, or each behind as much of it as fits.
    ///
    /// As in the harness's `_encode_pair`, text and choice are tokenised as one and parted behind as many tokens as the text has
    /// alone, without the spaces at its end.
    ///
    /// # Errors
    /// [`RowProblem::NoTokens`], [`RowProblem::OutsideVocabulary`], [`RowProblem::TooLong`], [`RowProblem::Tokenizer`].
    pub(super) fn choices(
        &self,
        task: ChoiceTask,
        context: &str,
        question: &Question,
    ) -> Result<Vec<Continuations>, RowProblem> {
        let texts = self.texts();
        // Spaces at its end are tokens of what follows.
        let before = texts.prompt(context.trim_end())?;
        if before.is_empty() {
            return Err(RowProblem::NoTokens(
                "the prompt is empty, and the tokenizer begins no text: there is no token that a choice could follow".into(),
            ));
        }
        self.check_vocabulary(&before)?;
        let mut continuations = Vec::with_capacity(question.choices.len());
        for (place, choice) in question.choices.iter().enumerate() {
            let whole = texts.prompt(&format!("{context}{}{choice}", task.delimiter()))?;
            let continuation = whole.get(before.len()..).unwrap_or_default().to_vec();
            if continuation.is_empty() {
                return Err(RowProblem::NoTokens(format!(
                    "choice {} adds no token to the prompt, so there is nothing to measure",
                    place + 1
                )));
            }
            self.check_vocabulary(&continuation)?;
            continuations.push(continuation);
        }
        self.fit_choices(Continuations {
            context: before,
            continuations,
        })
    }

    /// Limits what a model is given to `max_len` tokens, the last token of a choice not among them.
    fn fit_choices(&self, asked: Continuations) -> Result<Vec<Continuations>, RowProblem> {
        let len = asked.longest() - 1;
        if len <= self.max_len {
            return Ok(vec![asked]);
        }
        let choices = asked.continuations.iter();
        let longest_choice = choices.map(Vec::len).max().unwrap_or(0);
        if !self.truncate || longest_choice > self.max_len {
            return Err(RowProblem::TooLong {
                len,
                max: self.max_len,
            });
        }
        let Continuations {
            context,
            continuations,
        } = asked;
        let cut = |choice: Vec<u32>| {
            let room = self.max_len + 1 - choice.len();
            Continuations {
                context: context[context.len().saturating_sub(room)..].to_vec(),
                continuations: vec![choice],
            }
        };
        Ok(continuations.into_iter().map(cut).collect())
    }
}
