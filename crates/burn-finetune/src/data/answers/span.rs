//! Where an answer is in a rendering.

use super::shown::Shown;
use crate::error::RowProblem;
use crate::template::Message;
use std::ops::Range;

/// Stand for an answer, to see what is written around it. They share neither their first nor their last letter, so one
/// of them differs at once from whatever the answer begins or ends with.
const PROBES: [&str; 2] = ["Qvjq", "Zwkz"];

impl Shown<'_> {
    /// Returns where the answer at `place` is in `text`, the rendering of the first `shown` messages; `None` when that
    /// shows it, or what came before it, otherwise than the rendering up to it does.
    pub fn span_in(
        &self,
        text: &str,
        place: usize,
        shown: usize,
    ) -> Result<Option<Range<usize>>, RowProblem> {
        let is_last = place + 1 == shown;
        let before = &self.messages()[..place];
        // Many templates fail on an empty list, or on a system prompt alone.
        let asked = self.render(before, true).ok();
        let start = match asked.filter(|asked| text.starts_with(asked.as_str())) {
            Some(asked) => asked.len(),
            None => {
                let is_kept = before.is_empty()
                    || self
                        .render(before, false)
                        .is_ok_and(|before| text.starts_with(&before));
                if !is_last && !is_kept {
                    return Ok(None);
                }
                self.first_difference(text, place, shown)?
            }
        };
        let end = if is_last {
            Some(text.len())
        } else {
            self.end_in(text, place)?
        };
        Ok(end.filter(|end| start <= *end).map(|end| start..end))
    }

    /// Returns where `text` begins to differ from the same conversation with another answer at `place`.
    fn first_difference(
        &self,
        text: &str,
        place: usize,
        shown: usize,
    ) -> Result<usize, RowProblem> {
        let mut start = text.len();
        for probe in PROBES {
            let other = self.probed(place, shown, false, probe)?;
            start = start.min(common_prefix(text, &other));
        }
        Ok(start)
    }

    /// Returns where the answer at `place` ends in `text`, in which other turns follow.
    fn end_in(&self, text: &str, place: usize) -> Result<Option<usize>, RowProblem> {
        let upto = &self.messages()[..=place];
        if let Ok(after) = self.render(upto, false)
            && text.starts_with(&after)
        {
            return Ok(Some(after.len()));
        }
        // What a template writes at a conversation's end it leaves out where it asks for an answer.
        let Ok(asked) = self.render(upto, true) else {
            return Ok(None);
        };
        if let Some(prompt) = self.generation_prompt(place)
            && let Some(after) = asked.strip_suffix(&prompt)
            && text.starts_with(after)
        {
            return Ok(Some(after.len()));
        }
        let shared = before_open_tag(&text[..common_prefix(text, &asked)]);
        let mut behind = asked.len();
        for probe in PROBES {
            let other = self.probed(place, place + 1, true, probe)?;
            behind = behind.min(common_suffix(&asked, &other));
        }
        // An end that is not shared is no end of a turn: nothing would teach the model to stop there.
        Ok((shared > asked.len() - behind).then_some(shared))
    }

    /// Returns what the template writes to ask for the answer at `place`.
    fn generation_prompt(&self, place: usize) -> Option<String> {
        let before = &self.messages()[..place];
        let (without, with) = (
            self.render(before, false).ok()?,
            self.render(before, true).ok()?,
        );
        let prompt = with.strip_prefix(&without)?;
        (!prompt.is_empty()).then(|| prompt.to_owned())
    }

    /// Renders the first `shown` messages with `probe` for the answer at `place`.
    fn probed(
        &self,
        place: usize,
        shown: usize,
        prompt: bool,
        probe: &str,
    ) -> Result<String, RowProblem> {
        let mut messages = self.messages()[..shown].to_vec();
        messages[place] = Message::new("assistant", probe);
        let text = self
            .render(&messages, prompt)
            .map_err(|_| not_found(place))?;
        // Written twice or not at all, it does not show where the answer is.
        if text.matches(probe).count() == 1 {
            Ok(text)
        } else {
            Err(not_found(place))
        }
    }
}

/// Says that the answer at `place` is nowhere to be found.
pub fn not_found(place: usize) -> RowProblem {
    RowProblem::NotIncremental { turn: place + 1 }
}

/// Returns the length of what two texts begin with, at a letter's boundary.
fn common_prefix(one: &str, other: &str) -> usize {
    let letters = one.chars().zip(other.chars());
    let same = letters.take_while(|(one, other)| one == other);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

/// Returns the length of what two texts end with, at a letter's boundary.
fn common_suffix(one: &str, other: &str) -> usize {
    let letters = one.chars().rev().zip(other.chars().rev());
    let same = letters.take_while(|(one, other)| one == other);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

/// Returns where a tag begins that `text` ends within, or its end: two tags share their first letters.
fn before_open_tag(text: &str) -> usize {
    let open = text.rfind(['<', '[']);
    let closed = text.rfind(['>', ']']);
    match open {
        Some(open) if closed.is_none_or(|closed| closed < open) => open,
        _ => text.len(),
    }
}
