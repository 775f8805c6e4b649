//! The assistant's part of a conversation.
//!
//! An answer is found in the rendering of the whole conversation, by what neighbouring renderings share with it: it
//! begins where the prompt that asks for it ends, and ends where the rendering up to it ends. Where the whole shows an
//! answer otherwise than it was given, because the template drops old reasoning, say, the answer gets a row of its own,
//! of the conversation up to it. That is what the model was shown, and what it wrote.

use crate::error::{FinetuneError, RowProblem, RowWarning};
use crate::template::{ChatTemplate, Message, TemplateVariables};
use minijinja::value::{Value, ValueKind};
use std::ops::Range;

/// The part of a row that is learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Learn {
    /// Every answer of the assistant, every completion
    #[default]
    AllAnswers,
    /// The last answer of a conversation; every completion
    LastAnswer,
    /// The prompts too, all but what a row marks as not to be learnt
    Everything,
}

/// A conversation with what its template is shown beside the messages.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The turns in their order.
    pub messages: Vec<Message>,
    /// The number of turns at the beginning that are a prompt, whose answers are not learnt.
    pub learnt_from: usize,
    /// Tools, documents and switches.
    pub variables: TemplateVariables,
}

/// A text, and the byte ranges of it that are learnt.
#[derive(Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The text.
    pub text: String,
    /// The ranges, in order.
    pub learnt: Vec<Range<usize>>,
}

/// Stand for an answer, to see what is written around it. They share neither their first nor their last letter, so one
/// of them differs at once from whatever the answer begins or ends with.
const PROBES: [&str; 2] = ["Qvjq", "Zwkz"];

/// Returns the renderings of a conversation, each with its learnt part: one, or more where the template rewrites the past.
///
/// # Errors
/// [`RowProblem::Template`] when the template fails, [`RowProblem::NotIncremental`] when an answer cannot be found,
/// [`RowProblem::NoTargets`] when the assistant says nothing that is to be learnt, [`RowProblem::WrongType`] for content
/// that is no text and for a mark that is neither yes nor no.
pub fn find(
    template: &ChatTemplate,
    mut conversation: Conversation,
    learn: Learn,
) -> Result<(Vec<Rendering>, Vec<RowWarning>), RowProblem> {
    join_parts(template, &mut conversation.messages)?;
    let turns = turns(&conversation, learn)?;
    let shown = Shown {
        template,
        conversation: &conversation,
    };
    let text = shown.whole()?;
    match learn {
        Learn::Everything => shown.everything(text, &turns),
        Learn::AllAnswers | Learn::LastAnswer => shown.answers(text, &turns),
    }
}

/// Returns which tokens lie in `spans`, by their byte `offsets` in the text. A token that begins before a span
/// belongs to what comes before it, as it would when the model answers. Within a span every token counts: some
/// tokenizers give those of blanks no offsets, or none that are theirs.
pub fn tokens_in(spans: &[Range<usize>], offsets: &[(usize, usize)]) -> Vec<bool> {
    let mut learnt = vec![false; offsets.len()];
    for span in spans {
        let inside = |(start, end): &(usize, usize)| {
            let starts_inside = if start == end {
                span.start < *start
            } else {
                span.start <= *start
            };
            starts_inside && *end <= span.end
        };
        let first = offsets.iter().position(inside);
        let last = offsets.iter().rposition(inside);
        if let (Some(first), Some(last)) = (first, last) {
            learnt[first..=last].fill(true);
        }
    }
    learnt
}

/// A message of the assistant.
#[derive(Debug, Clone, Copy)]
struct Turn {
    place: usize,
    learnt: bool,
}

fn turns(conversation: &Conversation, learn: Learn) -> Result<Vec<Turn>, RowProblem> {
    let mut turns = Vec::new();
    for (place, message) in conversation.messages.iter().enumerate() {
        // All of a prompt is learnt, or nothing.
        let of_the_prompt = place < conversation.learnt_from && learn != Learn::Everything;
        let learnt = is_learnt(place, message)? && !of_the_prompt;
        if message.role() == "assistant" {
            turns.push(Turn { place, learnt });
        }
    }
    if learn == Learn::LastAnswer {
        let last = turns.iter().rposition(|turn| turn.learnt);
        for (at, turn) in turns.iter_mut().enumerate() {
            turn.learnt = Some(at) == last;
        }
    }
    if learn != Learn::Everything && turns.is_empty() {
        return Err(RowProblem::NoTargets("no message of the assistant"));
    }
    if learn != Learn::Everything && turns.iter().all(|turn| !turn.learnt) {
        return Err(RowProblem::NoTargets(
            "every message of the assistant is marked as not to be learnt",
        ));
    }
    Ok(turns)
}

/// Returns what `weight` (OpenAI's and Mistral's mark) and `train` (axolotl's) say of a message.
fn is_learnt(place: usize, message: &Message) -> Result<bool, RowProblem> {
    let wrong = |name: &str, expected: &str, found: &Value| {
        RowProblem::WrongType(format!(
            "message {}: \"{name}\" is {found}, but it must be {expected}",
            place + 1
        ))
    };
    let mut learnt = true;
    if let Some(weight) = message.get("weight") {
        let number = f64::try_from(weight.clone()).ok();
        learnt &= match number {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => return Err(wrong("weight", "0 or 1", weight)),
        };
    }
    if let Some(train) = message.get("train") {
        learnt &= match train.kind() {
            ValueKind::Bool => train.is_true(),
            _ => return Err(wrong("train", "true or false", train)),
        };
    }
    Ok(learnt)
}

/// Joins contents that are lists of text parts, unless the template goes through them.
fn join_parts(template: &ChatTemplate, messages: &mut [Message]) -> Result<(), RowProblem> {
    for (place, message) in messages.iter_mut().enumerate() {
        let Some(content) = message.get("content") else {
            continue;
        };
        if content.kind() != ValueKind::Seq {
            continue;
        }
        let parts = content.try_iter().into_iter().flatten();
        let texts = parts.map(|part| part_text(&part));
        let text = texts.collect::<Result<String, String>>().map_err(|kind| {
            RowProblem::WrongType(format!(
                "message {}: its content has a part of the type {kind:?}; only text can be learnt",
                place + 1
            ))
        })?;
        if !template.goes_through_parts() {
            *message = message.with_content(Value::from(text));
        }
    }
    Ok(())
}

/// Returns the text of a part, or the type of one that is no text.
fn part_text(part: &Value) -> Result<String, String> {
    if let Some(text) = part.as_str() {
        return Ok(text.to_owned());
    }
    let field = |name: &str| {
        part.get_attr(name)
            .ok()
            .filter(|field| !field.is_undefined())
    };
    let kind = field("type").map_or_else(|| "text".to_owned(), |kind| kind.to_string());
    let text = field("text").filter(|_| kind == "text");
    let text = text.and_then(|text| text.as_str().map(str::to_owned));
    text.ok_or(kind)
}

/// A conversation as its template shows it.
struct Shown<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
}

impl Shown<'_> {
    fn messages(&self) -> &[Message] {
        &self.conversation.messages
    }

    fn whole(&self) -> Result<String, RowProblem> {
        self.render(self.messages(), false)
    }

    fn render(&self, messages: &[Message], prompt: bool) -> Result<String, RowProblem> {
        let variables = &self.conversation.variables;
        let text = self.template.render_with(messages, variables, prompt);
        text.map_err(template_problem)
    }

    /// Learns all of `text`, except for the turns that are marked.
    fn everything(
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

    fn answers(
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

    /// Returns where the answer at `place` is in `text`, the rendering of the first `shown` messages; `None` when that
    /// shows it, or what came before it, otherwise than the rendering up to it does.
    fn span_in(
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

fn not_found(place: usize) -> RowProblem {
    RowProblem::NotIncremental { turn: place + 1 }
}

fn template_problem(error: FinetuneError) -> RowProblem {
    match error {
        FinetuneError::Template(reason) => RowProblem::Template(reason),
        other => RowProblem::Template(other.to_string()),
    }
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
