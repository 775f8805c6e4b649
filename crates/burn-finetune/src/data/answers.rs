//! The assistant's part of a conversation.
//!
//! An answer is found in the rendering of the whole conversation, by what neighbouring renderings share with it: it
//! begins where the prompt that asks for it ends, and ends where the rendering up to it ends. Where the whole shows an
//! answer otherwise than it was given, because the template drops old reasoning, say, the answer gets a row of its own,
//! of the conversation up to it. That is what the model was shown, and what it wrote.

/// Contents in parts.
mod parts;
/// Conversations as their template shows them.
mod shown;
/// Where an answer is in a rendering.
mod span;
/// The messages of the assistant.
mod turns;

use crate::error::{RowProblem, RowWarning};
use crate::template::{ChatTemplate, Message, TemplateVariables};
use shown::Shown;
pub use shown::template_problem;
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

/// Returns the renderings of a conversation, each with its learnt part: one, or more where the template rewrites the past.
///
/// # Errors
/// [`RowProblem::Template`] when the template fails, [`RowProblem::NotIncremental`] when an answer cannot be found,
/// [`RowProblem::NoAnswer`] and [`RowProblem::NoTargets`] when the assistant says nothing that is to be learnt,
/// [`RowProblem::WrongType`] for content that is no text and for a mark that is neither yes nor no.
pub fn find(
    template: &ChatTemplate,
    mut conversation: Conversation,
    learn: Learn,
) -> Result<(Vec<Rendering>, Vec<RowWarning>), RowProblem> {
    parts::join(template, &mut conversation.messages)?;
    let turns = turns::of(&conversation, learn)?;
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
