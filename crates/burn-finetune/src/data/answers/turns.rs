//! The messages of the assistant.

use super::{Conversation, Learn};
use crate::error::RowProblem;
use crate::template::Message;
use minijinja::value::{Value, ValueKind};

/// A message of the assistant.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Its place among the messages.
    pub place: usize,
    /// Whether it counts in the loss.
    pub learnt: bool,
}

/// Returns the messages of the assistant.
///
/// # Errors
/// [`RowProblem::NoAnswer`] where there is none, [`RowProblem::NoTargets`] where none is to be learnt though one should be,
/// [`RowProblem::WrongType`] for a mark that is
/// neither yes nor no.
pub fn of(conversation: &Conversation, learn: Learn) -> Result<Vec<Turn>, RowProblem> {
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
        return Err(RowProblem::NoAnswer {
            roles: roles(&conversation.messages),
        });
    }
    if learn != Learn::Everything && turns.iter().all(|turn| !turn.learnt) {
        return Err(RowProblem::NoTargets(
            "every message of the assistant is marked as not to be learnt",
        ));
    }
    Ok(turns)
}

/// Lists the roles of the messages, each once.
fn roles(messages: &[Message]) -> String {
    let mut roles: Vec<_> = Vec::new();
    for message in messages {
        let role = format!("{:?}", message.role());
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    if roles.is_empty() {
        "none".to_owned()
    } else {
        roles.join(", ")
    }
}

/// Returns what `weight` (OpenAI's and Mistral's mark) and `train` (axolotl's) say of a message.
fn is_learnt(place: usize, message: &Message) -> Result<bool, RowProblem> {
    let wrong = |name: &str, expected: &str, found: &Value| {
        RowProblem::WrongType(format!(
            "message {}: \"{name}\" is {found:?}, but it must be {expected}",
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
