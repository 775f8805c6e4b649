//! Conversations as their template shows them.

use super::span::not_found;
use super::turns::Turn;
use super::{Conversation, Rendering};
use crate::error::{FinetuneError, RowProblem, RowWarning};
use crate::template::{ChatTemplate, Message};
use std::ops::Range;

/// A conversation as its template shows it.
pub struct Shown<'a> {
    /// Its template.
    pub template: &'a ChatTemplate,
    /// The turns and the variables.
    pub conversation: &'a Conversation,
}

impl Shown<'_> {
    pub(super) fn messages(&self) -> &[Message] {
        &self.conversation.messages
    }

    /// Renders all of it.
    pub fn whole(&self) -> Result<String, RowProblem> {
        self.render(self.messages(), false)
    }

    pub(super) fn render(&self, messages: &[Message], prompt: bool) -> Result<String, RowProblem> {
        let variables = &self.conversation.variables;
        let text = self.template.render_with(messages, variables, prompt);
        text.map_err(template_problem)
    }

    /// Learns all of `text`, except for the turns that are marked.
    pub fn everything(
        &self,
        text: String,
        turns: &[Turn],
    ) -> Result<(Vec<Rendering>, Vec<RowWarning>), RowProblem> {
        let mut learnt = Vec::new();
        let mut from = 0;
        for turn in turns.iter().filter(|turn| !turn.learnt) {
            let span = self
                .span_in(&text, turn.place, self.messages().len())?
                .ok_or(not_found(turn.place))?;
            learnt.push(from..span.start);
            from = span.end;
        }
        learnt.push(from..text.len());
        Ok((vec![Rendering { text, learnt }], Vec::new()))
    }

    /// Learns the answers that are to be learnt, each where it is, or else in a rendering of its own.
    pub fn answers(
        &self,
        text: String,
        turns: &[Turn],
    ) -> Result<(Vec<Rendering>, Vec<RowWarning>), RowProblem> {
        if let Some(learnt) = self.marked(&text, turns)? {
            let told = turns.iter().filter(|turn| turn.learnt);
            let warnings = told.filter_map(|turn| self.left_out(turn.place, &text, 0..text.len()));
            let warnings = warnings.collect();
            return Ok((vec![Rendering { text, learnt }], warnings));
        }
        let mut renderings = Vec::new();
        let mut warnings = Vec::new();
        let mut in_whole = Vec::new();
        for turn in turns.iter().filter(|turn| turn.learnt) {
            match self.span_in(&text, turn.place, self.messages().len())? {
                Some(span) => {
                    warnings.extend(self.left_out(turn.place, &text, span.clone()));
                    in_whole.push(span);
                }
                None => {
                    let (text, span) = self.alone(turn.place)?;
                    warnings.extend(self.left_out(turn.place, &text, span.clone()));
                    renderings.push(Rendering {
                        text,
                        learnt: vec![span],
                    });
                }
            }
        }
        if !in_whole.is_empty() {
            renderings.push(Rendering {
                text,
                learnt: in_whole,
            });
        }
        Ok((renderings, warnings))
    }

    /// Returns the conversation up to the answer at `place`, and where that answer is in it.
    fn alone(&self, place: usize) -> Result<(String, Range<usize>), RowProblem> {
        let text = self.render(&self.messages()[..=place], false)?;
        let span = self.span_in(&text, place, place + 1)?;
        Ok((text, span.ok_or(not_found(place))?))
    }

    /// Returns the learnt spans by the template's own marks, if it has any.
    fn marked(&self, text: &str, turns: &[Turn]) -> Result<Option<Vec<Range<usize>>>, RowProblem> {
        let variables = &self.conversation.variables;
        let marks = self.template.marked(self.messages(), variables, text);
        let Some(marks) = marks.map_err(template_problem)? else {
            return Ok(None);
        };
        if turns.iter().all(|turn| turn.learnt) {
            return Ok(Some(marks));
        }
        // Which mark is whose is known only where each turn has one.
        Ok((marks.len() == turns.len()).then(|| {
            let pairs = marks.into_iter().zip(turns);
            let learnt = pairs.filter(|(_, turn)| turn.learnt);
            learnt.map(|(mark, _)| mark).collect()
        }))
    }

    /// Warns when not all words of the answer at `place` are in `text` up to the end of the answer's `span`, in their order,
    /// or a tool that it calls is not named in the span.
    fn left_out(&self, place: usize, text: &str, span: Range<usize>) -> Option<RowWarning> {
        let message = &self.messages()[place];
        let is_written = |answer: &str| {
            // The prompt for the answer may have written its first words, such as `<think>`.
            let mut rest = &text[..span.end];
            answer.split_whitespace().all(|word| match rest.find(word) {
                Some(at) => {
                    rest = &rest[at + word.len()..];
                    true
                }
                None => false,
            })
        };
        let written = &text[span.clone()];
        let calls = message.called_tools();
        let whole =
            message.words().all(is_written) && calls.iter().all(|tool| written.contains(tool));
        (!whole).then_some(RowWarning::LeftOut { turn: place + 1 })
    }
}

pub fn template_problem(error: FinetuneError) -> RowProblem {
    match error {
        FinetuneError::Template(reason) => RowProblem::Template(reason),
        other => RowProblem::Template(other.to_string()),
    }
}
