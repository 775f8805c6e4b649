use super::Example;
use super::chat;
use super::fields::{Fields, elements};
use crate::data::answers::Conversation;
use crate::error::RowProblem;
use crate::template::{Message, object};
use minijinja::value::Value;

/// Reads an instruction with its input and output as a conversation.
pub fn read(row: &Fields<'_>) -> Result<Example, RowProblem> {
    let mut messages = asked(row)?;
    messages.push(Message::new("assistant", &row.string("output")?));
    Ok(Example::Chat(Conversation {
        messages,
        learnt_from: 0,
        variables: chat::variables(row)?,
    }))
}

/// Reads an instruction as the beginning of a conversation: earlier turns under `history`, then the instruction and, on
/// the next line, the input.
pub fn asked(row: &Fields<'_>) -> Result<Vec<Message>, RowProblem> {
    let some = |text: &String| !text.trim().is_empty();
    let mut messages = Vec::new();
    if let Some(system) = row.optional_string("system")?.filter(some) {
        messages.push(Message::new("system", &system));
    }
    if let Some(history) = row.list("history")? {
        for pair in elements(&history).unwrap_or_default() {
            let [asked, answered] = pair_of_texts(&pair).ok_or_else(|| {
                RowProblem::WrongType(format!(
                    "\"{}\" holds a {}, but each of its elements is a pair of texts, what was asked and what was answered",
                    row.column("history"),
                    pair.kind()
                ))
            })?;
            messages.push(Message::new("user", &asked));
            messages.push(Message::new("assistant", &answered));
        }
    }
    let instruction = row.string("instruction")?;
    let input = row.optional_string("input")?.filter(some);
    messages.push(turn(&instruction, input.as_deref())?);
    Ok(messages)
}

/// Returns the user's message. With an input it holds both apart too, as the built-in template of Alpaca shows them.
fn turn(instruction: &str, input: Option<&str>) -> Result<Message, RowProblem> {
    let Some(input) = input else {
        return Ok(Message::new("user", instruction));
    };
    let content = if instruction.is_empty() {
        input.to_owned()
    } else {
        format!("{instruction}\n{input}")
    };
    let fields = [
        ("role", "user"),
        ("content", &content),
        ("instruction", instruction),
        ("input", input),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::from(text)));
    Message::from_value(&object(fields.into())).map_err(RowProblem::WrongType)
}

fn pair_of_texts(pair: &Value) -> Option<[String; 2]> {
    let texts = elements(pair)?;
    let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
    texts.collect::<Option<Vec<_>>>()?.try_into().ok()
}
