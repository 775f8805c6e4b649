use super::keys::{Keys, check_lengths};
use super::mmlu::letter;
use crate::choices::question::Question;
use crate::error::RowProblem;

/// Reads a prompt and the texts of which one follows it.
pub fn read(row: Keys<'_>) -> Result<Question, RowProblem> {
    let choices = row.choices("choices")?;
    check_lengths("choices", &choices)?;
    let answer = row.place_or_letter("answer", choices.len())?;
    let given = row.value("answer")?;
    let named = choices
        .iter()
        .position(|choice| given.as_str() == Some(choice));
    if let Some(named) = named.filter(|named| *named != answer) {
        return Err(RowProblem::WrongType(format!(
            "\"answer\" is \"{}\", which stands for choice {} and is the text of choice {}; give the place, from 0 on",
            letter(answer),
            answer + 1,
            named + 1
        )));
    }
    Ok(Question {
        subject: None,
        prompt: row.text("prompt")?,
        choices,
        answer,
    })
}
