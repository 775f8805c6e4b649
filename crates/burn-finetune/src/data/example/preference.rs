use super::Example;
use super::chat;
use super::fields::Fields;
use crate::error::RowProblem;
use crate::template::{Message, TemplateVariables};
use minijinja::value::{Value, ValueKind};

/// Answers to a prompt, and what is said of them.
#[derive(Debug)]
pub struct Preference {
    /// The prompt and the answers.
    pub prompted: Prompted,
    /// What is said of them.
    pub verdict: Verdict,
}

/// A prompt and answers to it.
#[derive(Debug)]
pub enum Prompted {
    /// Texts.
    Texts {
        /// The text before.
        prompt: String,
        /// What may follow it.
        answers: Vec<String>,
    },
    /// Messages.
    Chat {
        /// The turns before.
        prompt: Vec<Message>,
        /// What may follow them.
        answers: Vec<Vec<Message>>,
        /// Tools, documents and switches.
        variables: TemplateVariables,
    },
}

/// What is said of answers.
#[derive(Debug)]
pub enum Verdict {
    /// The first of two is preferred.
    Pair,
    /// Each is desirable or not.
    Labels(Vec<bool>),
}

/// Reads `chosen` and `rejected` as a pair.
pub fn read_pair(row: &Fields<'_>) -> Result<Example, RowProblem> {
    Ok(Example::Preference(Preference {
        prompted: pair(row)?,
        verdict: Verdict::Pair,
    }))
}

/// Reads `chosen` and `rejected` as a desirable answer and one that is not.
pub fn read_both(row: &Fields<'_>) -> Result<Example, RowProblem> {
    Ok(Example::Preference(Preference {
        prompted: pair(row)?,
        verdict: Verdict::Labels(vec![true, false]),
    }))
}

/// Reads `prompt`, `completion` and `label`.
pub fn read_labelled(row: &Fields<'_>) -> Result<Example, RowProblem> {
    let label = row.get("label").unwrap_or_default();
    let desirable = match (label.kind(), label.as_str()) {
        (ValueKind::Bool, _) => label.is_true(),
        (ValueKind::Number, _) if label == Value::from(0) || label == Value::from(1) => {
            label == Value::from(1)
        }
        // As a table of texts has it.
        (_, Some("true" | "True" | "1")) => true,
        (_, Some("false" | "False" | "0")) => false,
        _ => {
            return Err(RowProblem::WrongType(format!(
                "\"{}\" is {label:?}, but it must be true or false",
                row.column("label")
            )));
        }
    };
    let prompt = row.get("prompt").unwrap_or_default();
    let completion = row.get("completion").unwrap_or_default();
    let prompted = match (is_chat(&prompt), is_chat(&completion)) {
        (false, false) => Prompted::Texts {
            prompt: row.string("prompt")?,
            answers: vec![row.string("completion")?],
        },
        (true, true) => Prompted::Chat {
            prompt: turns(row, "prompt", &prompt)?,
            answers: vec![turns(row, "completion", &completion)?],
            variables: chat::variables(row)?,
        },
        (prompt_is_chat, _) => return Err(mixed(row, ["prompt", "completion"], prompt_is_chat)),
    };
    Ok(Example::Preference(Preference {
        prompted,
        verdict: Verdict::Labels(vec![desirable]),
    }))
}

/// Reads `chosen` and `rejected`, to `prompt` or to what both begin with.
fn pair(row: &Fields<'_>) -> Result<Prompted, RowProblem> {
    let chosen = row.get("chosen").unwrap_or_default();
    let rejected = row.get("rejected").unwrap_or_default();
    match (is_chat(&chosen), is_chat(&rejected)) {
        (true, true) => {
            let answers = [
                turns(row, "chosen", &chosen)?,
                turns(row, "rejected", &rejected)?,
            ];
            chat_pair(row, answers)
        }
        (false, false) => {
            let answers = [row.string("chosen")?, row.string("rejected")?];
            match row.get("prompt") {
                Some(prompt) if is_chat(&prompt) => Err(mixed(row, ["prompt", "chosen"], true)),
                Some(_) => Ok(Prompted::Texts {
                    prompt: row.string("prompt")?,
                    answers: answers.into(),
                }),
                None => Ok(shared_text(answers)),
            }
        }
        (chosen_is_chat, _) => Err(mixed(row, ["chosen", "rejected"], chosen_is_chat)),
    }
}

/// Reads a pair of lists of messages, which follow `prompt`, or a conversation as other rows have it, or hold it.
///
/// Some data sets have the last question as a text in `prompt` beside whole conversations.
fn chat_pair(row: &Fields<'_>, answers: [Vec<Message>; 2]) -> Result<Prompted, RowProblem> {
    let variables = chat::variables(row)?;
    let conversation = ["messages", "conversations"]
        .into_iter()
        .find_map(|name| Some((name, row.get(name)?)));
    let (mut prompt, answers) = match row.get("prompt") {
        Some(prompt) if is_chat(&prompt) => (turns(row, "prompt", &prompt)?, answers),
        Some(_) => {
            let asked = row.string("prompt")?;
            let (prompt, answers) = shared_turns(answers);
            let says = |message: &Message| {
                let content = message.get("content").and_then(Value::as_str);
                content.is_some_and(|content| content.trim() == asked.trim())
            };
            if !prompt.iter().any(says) {
                return Err(RowProblem::WrongType(format!(
                    "\"{}\" is a text, and none of the messages that \"{}\" and \"{}\" begin with; make it a list of \
                     messages, or leave it out",
                    row.column("prompt"),
                    row.column("chosen"),
                    row.column("rejected")
                )));
            }
            (prompt, answers)
        }
        None => match conversation {
            Some((name, turns_before)) => (turns(row, name, &turns_before)?, answers),
            None => shared_turns(answers),
        },
    };
    if prompt.is_empty() {
        return Err(RowProblem::WrongType(format!(
            "there is no \"{}\", and \"{}\" and \"{}\" begin with no message that they share",
            row.column("prompt"),
            row.column("chosen"),
            row.column("rejected")
        )));
    }
    chat::put_system(row, &mut prompt)?;
    Ok(Prompted::Chat {
        prompt,
        answers: answers.into(),
        variables,
    })
}

/// Parts two conversations into the turns that both begin with, their last ones left out, and the rest of each, as TRL's
/// `extract_prompt` does.
fn shared_turns(
    [mut chosen, mut rejected]: [Vec<Message>; 2],
) -> (Vec<Message>, [Vec<Message>; 2]) {
    let pairs = chosen.iter().zip(&rejected);
    let shared = pairs.take_while(|(one, other)| one.value() == other.value());
    let shortest = chosen.len().min(rejected.len());
    let shared = shared.count().min(shortest.saturating_sub(1));
    let answer = chosen.split_off(shared);
    (chosen, [answer, rejected.split_off(shared)])
}

/// Parts two texts as [`shared_turns`] does; a space before the place at which they differ belongs to the answers.
fn shared_text([chosen, rejected]: [String; 2]) -> Prompted {
    let letters = chosen.char_indices().zip(rejected.chars());
    let differ = letters
        .filter(|((_, one), other)| one != other)
        .map(|((at, _), _)| at)
        .next();
    let shared = differ.unwrap_or_else(|| {
        // One is the beginning of the other, and keeps its last letter.
        let shorter = if chosen.len() < rejected.len() {
            &chosen
        } else {
            &rejected
        };
        shorter.char_indices().next_back().map_or(0, |(at, _)| at)
    });
    let shared = match (differ, chosen[..shared].strip_suffix(' ')) {
        (Some(_), Some(prompt)) => prompt.len(),
        _ => shared,
    };
    let answers = [&chosen, &rejected].map(|text| text[shared..].to_owned());
    Prompted::Texts {
        prompt: chosen[..shared].to_owned(),
        answers: answers.into(),
    }
}

/// Returns whether a value is messages: a list of them, or one.
fn is_chat(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map)
}

/// Reads messages; one that is no list is a list of one.
fn turns(row: &Fields<'_>, name: &str, value: &Value) -> Result<Vec<Message>, RowProblem> {
    let column = row.column(name);
    match value.kind() {
        ValueKind::Map => chat::messages(column, &Value::from(vec![value.clone()])),
        _ => chat::messages(column, value),
    }
}

fn mixed(row: &Fields<'_>, names: [&str; 2], first_is_chat: bool) -> RowProblem {
    let [mut list, mut text] = names.map(|name| row.column(name));
    if !first_is_chat {
        std::mem::swap(&mut list, &mut text);
    }
    RowProblem::WrongType(format!(
        "\"{list}\" is a list of messages and \"{text}\" is a text; all are texts, or all are lists of messages"
    ))
}
