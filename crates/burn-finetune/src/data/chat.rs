//! The assistant's part of a conversation.
//!
//! The template is rendered turn by turn: what it writes for the turns before an answer, with the prompt
//! that asks for one, must begin what it writes once the answer is there; what comes between is the
//! answer, its end marker included. Templates that rewrite the past (by dropping earlier reasoning, say)
//! are refused rather than learnt wrongly.

use crate::error::RowProblem;
use crate::template::{ChatTemplate, Message};
use std::ops::Range;

/// Returns the conversation as text, and the byte ranges in it that the assistant wrote.
///
/// # Errors
/// [`RowProblem::Template`] when the template fails, [`RowProblem::NotIncremental`] when it rewrites the
/// past, [`RowProblem::NoTargets`] when the assistant says nothing.
pub fn assistant_spans(
    template: &ChatTemplate,
    messages: &[Message],
) -> Result<(String, Vec<Range<usize>>), RowProblem> {
    let render = |messages: &[Message], prompt| {
        template
            .render(messages, prompt)
            .map_err(|error| RowProblem::Template(error.to_string()))
    };
    let text = render(messages, false)?;
    let mut spans = Vec::new();
    for (place, message) in messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        let before = render(&messages[..place], true)?;
        let after = render(&messages[..=place], false)?;
        if !(after.starts_with(&before) && text.starts_with(&after)) {
            return Err(RowProblem::NotIncremental { turn: place + 1 });
        }
        spans.push(before.len()..after.len());
    }
    if spans.is_empty() {
        return Err(RowProblem::NoTargets("no message of the assistant"));
    }
    Ok((text, spans))
}

/// Returns which tokens lie in `spans`, by their byte `offsets` in the text. A token that begins before a span
/// belongs to what comes before it, as it would when the model answers.
pub fn tokens_in(spans: &[Range<usize>], offsets: &[(usize, usize)]) -> Vec<bool> {
    offsets
        .iter()
        .map(|(start, end)| {
            end > start
                && spans
                    .iter()
                    .any(|span| span.start <= *start && *end <= span.end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn spans(source: &str) -> Result<Vec<String>, RowProblem> {
        let template = ChatTemplate::new(source, BTreeMap::new()).unwrap();
        let messages = [
            Message::new("user", "one"),
            Message::new("assistant", "two"),
            Message::new("user", "three"),
            Message::new("assistant", "four"),
        ];
        let (text, spans) = assistant_spans(&template, &messages)?;
        Ok(spans
            .into_iter()
            .map(|span| text[span].to_owned())
            .collect())
    }

    #[test]
    fn the_assistants_turns_are_found_with_their_end() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(spans(source).unwrap(), ["two<end>", "four<end>"]);
    }

    #[test]
    fn a_template_that_rewrites_the_past_is_refused() {
        let source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        assert!(matches!(
            spans(source),
            Err(RowProblem::NotIncremental { turn: 2 })
        ));
    }

    #[test]
    fn a_token_across_the_boundary_belongs_to_the_prompt() {
        let learn = tokens_in(
            &[3..6, 9..10],
            &[(0, 2), (2, 4), (4, 6), (6, 9), (9, 10), (0, 0)],
        );
        assert_eq!(learn, [false, false, true, false, true, false]);
    }
}
