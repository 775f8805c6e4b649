use super::keys::Keys;
use crate::choices::question::Question;
use crate::error::RowProblem;

/// Returns the letter of the choice at `place`.
pub fn letter(place: usize) -> char {
    char::from(b'A' + place as u8)
}

/// Returns what stands before all questions of a subject.
pub fn description(subject: &str) -> String {
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

/// Reads a row of MMLU as the harness's `mmlu` shows it: the choices behind letters, which are what is asked.
pub fn read(row: Keys<'_>) -> Result<Question, RowProblem> {
    let texts = row.choices("choices")?;
    let mut prompt = row.text("question")?.trim().to_owned();
    for (place, text) in texts.iter().enumerate() {
        prompt += &format!("\n{}. {text}", letter(place));
    }
    prompt += "\nAnswer:";
    Ok(Question {
        subject: match row.has("subject") {
            true => Some(row.text("subject")?),
            false => None,
        },
        prompt,
        answer: row.place_or_letter("answer", texts.len())?,
        choices: (0..texts.len()).map(|place| letter(place).into()).collect(),
    })
}
