use super::keys::{Keys, check_lengths, no_such_choice, place};
use crate::choices::question::Question;
use crate::error::RowProblem;

/// Reads a row of HellaSwag as the harness's `hellaswag` shows it. Of a context in two parts the second begins with a capital; one
/// in `ctx` alone is taken as it is.
pub fn read(row: Keys<'_>) -> Result<Question, RowProblem> {
    let activity = row.text("activity_label")?;
    let context = match row.has("ctx_a") && row.has("ctx_b") {
        true => format!(
            "{} {}",
            row.text("ctx_a")?,
            capitalized(&row.text("ctx_b")?)
        ),
        false => row.text("ctx")?,
    };
    let endings = row.choices("endings")?;
    let choices: Vec<String> = endings.iter().map(|ending| cleaned(ending)).collect();
    check_lengths("endings", &choices)?;
    let label = row.value("label")?;
    let answer = place(&label).or_else(|| label.as_str()?.parse().ok());
    Ok(Question {
        subject: None,
        prompt: cleaned(&format!("{activity}: {context}")),
        answer: answer
            .filter(|answer| *answer < choices.len())
            .ok_or_else(|| {
                let expected = format!(
                    "0 to {}; the published test rows have no labels, take those of validation",
                    choices.len() - 1
                );
                no_such_choice("label", &label, expected)
            })?,
        choices,
    })
}

/// Takes the marks of WikiHow's texts out, as the harness's `preprocess` does.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Returns the text without what is in brackets, each up to the next closing one on its line: what the expression `\[.*?\]`
/// matches.
fn without_brackets(mut text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    while let Some(open) = text.find('[') {
        let (before, rest) = text.split_at(open);
        kept += before;
        let end = rest
            .find([']', '\n'])
            .filter(|end| rest[*end..].starts_with(']'));
        let behind = end.map_or(1, |end| end + 1);
        if end.is_none() {
            kept.push('[');
        }
        text = &rest[behind..];
    }
    kept + text
}

/// Returns the text with a capital first and small letters behind it, as Python's `str.capitalize` does.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else {
        return String::new();
    };
    let mut capital = first.to_uppercase();
    let first: String = capital.next().into_iter().collect();
    let ligature = capital.collect::<String>().to_lowercase();
    first + &ligature + &letters.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_cleans_them() {
        for (text, expected) in [
            (" a [title] b [step] c ", "a. b c"),
            ("a  b   c", "a b  c"),
            ("[header] How [x]y[z", " How y[z"),
            ("[a\n] b [c]", "[a\n] b "),
            ("a] [[b] c]", "a] c]"),
            ("[title] first", " first"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_second_part_begins_with_a_capital() {
        let capitals = ["then HE", "élan", "ßa", ""].map(capitalized);
        assert_eq!(capitals, ["Then he", "Élan", "Ssa", ""]);
    }
}
