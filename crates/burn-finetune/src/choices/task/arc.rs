use super::keys::{Keys, check_lengths, no_such_choice, texts};
use crate::choices::question::Question;
use crate::error::RowProblem;
use minijinja::value::{Value, ValueKind};

/// Reads a row of ARC as the harness's `arc_easy` and `arc_challenge` show it. The question may hold its choices, as in the
/// files of its authors.
pub fn read(row: Keys<'_>) -> Result<Question, RowProblem> {
    let question = row.value("question")?;
    let (stem, choices) = match question.kind() {
        ValueKind::Map => {
            let question = Keys(&question);
            (question.text("stem")?, question.value("choices")?)
        }
        _ => (row.text("question")?, row.value("choices")?),
    };
    let (values, labels) = match choices.kind() {
        ValueKind::Map => {
            let choices = Keys(&choices);
            (choices.list("text")?, choices.list("label")?)
        }
        ValueKind::Seq => apart(&choices)?,
        _ => return Err(shapeless()),
    };
    let choices = texts("choices", &values)?;
    if choices.len() != labels.len() {
        return Err(RowProblem::WrongType(format!(
            "\"choices\" has {} texts and {} labels; each choice has one of both",
            choices.len(),
            labels.len()
        )));
    }
    check_lengths("choices", &choices)?;
    let labels: Vec<String> = labels.iter().map(Value::to_string).collect();
    let key = row.value("answerKey")?;
    let place = labels.iter().position(|label| *label == key.to_string());
    Ok(Question {
        subject: None,
        prompt: format!("Question: {stem}\nAnswer:"),
        choices,
        answer: place.ok_or_else(|| no_such_choice("answerKey", &key, listed(&labels)))?,
    })
}

/// Returns the texts and the labels of a list of objects.
fn apart(choices: &Value) -> Result<(Vec<Value>, Vec<Value>), RowProblem> {
    let each = choices.try_iter().into_iter().flatten();
    let pairs = each.map(|choice| match choice.kind() {
        ValueKind::Map => {
            let choice = Keys(&choice);
            Ok((choice.value("text")?, choice.value("label")?))
        }
        _ => Err(shapeless()),
    });
    let pairs: Vec<_> = pairs.collect::<Result<_, _>>()?;
    Ok(pairs.into_iter().unzip())
}

fn shapeless() -> RowProblem {
    RowProblem::WrongType(
        "\"choices\" must be an object with \"text\" and \"label\", two lists, or a list of such objects; with \"answer\" in place \
         of \"answerKey\" they are read as those of MMLU"
            .into(),
    )
}

/// Returns `A, B or C`.
fn listed(labels: &[String]) -> String {
    match labels {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
