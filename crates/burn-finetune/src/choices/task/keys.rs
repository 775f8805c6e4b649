use crate::data::example::fields::{elements, key};
use crate::error::RowProblem;
use minijinja::value::{Value, ValueKind};

/// The values of a row by its keys, or of an object in it.
#[derive(Clone, Copy)]
pub struct Keys<'a>(pub &'a Value);

/// Most choices of a question: each has a letter.
const MOST: usize = 26;

impl Keys<'_> {
    /// Returns the keys that are not null, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let names = self.0.try_iter().into_iter().flatten();
        let names = names.map(|name| name.to_string());
        let mut names: Vec<String> = names.filter(|name| self.has(name)).collect();
        names.sort();
        names
    }

    /// Returns whether something is under `name`.
    pub fn has(&self, name: &str) -> bool {
        key(self.0, name).is_some()
    }

    /// Returns what is under `name`.
    ///
    /// # Errors
    /// Nothing is.
    pub fn value(&self, name: &str) -> Result<Value, RowProblem> {
        let missing = || RowProblem::WrongType(format!("\"{name}\" is missing"));
        key(self.0, name).ok_or_else(missing)
    }

    /// Returns the text under `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn text(&self, name: &str) -> Result<String, RowProblem> {
        let value = self.value(name)?;
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| {
            RowProblem::WrongType(format!("\"{name}\" is a {}, not a string", value.kind()))
        })
    }

    /// Returns the list under `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn list(&self, name: &str) -> Result<Vec<Value>, RowProblem> {
        let value = self.value(name)?;
        elements(&value).ok_or_else(|| {
            RowProblem::WrongType(format!("\"{name}\" is a {}, not a list", value.kind()))
        })
    }

    /// Returns the texts of choices under `name`.
    ///
    /// # Errors
    /// Fewer than two or more than there are letters, and one that is no text.
    pub fn choices(&self, name: &str) -> Result<Vec<String>, RowProblem> {
        texts(name, &self.list(name)?)
    }

    /// Returns the place of a choice that `name` holds: the place itself, from 0 on, or its letter.
    ///
    /// # Errors
    /// A place that none of the `count` choices has.
    pub fn place_or_letter(&self, name: &'static str, count: usize) -> Result<usize, RowProblem> {
        let value = self.value(name)?;
        let letter = value.as_str().and_then(|text| match text.as_bytes() {
            [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
            _ => None,
        });
        let place = letter.or_else(|| place(&value));
        place.filter(|place| *place < count).ok_or_else(|| {
            let last = count - 1;
            let expected = format!("0 to {last}, or A to {}", super::mmlu::letter(last));
            no_such_choice(name, &value, expected)
        })
    }
}

/// Returns the texts of choices.
///
/// # Errors
/// Fewer than two or more than there are letters, and one that is no text.
pub fn texts(name: &str, values: &[Value]) -> Result<Vec<String>, RowProblem> {
    if !(2..=MOST).contains(&values.len()) {
        return Err(RowProblem::WrongType(format!(
            "\"{name}\" has {} of them; a question has 2 to {MOST} choices",
            values.len()
        )));
    }
    let text = |(place, value): (usize, &Value)| {
        value.as_str().map(str::to_owned).ok_or_else(|| {
            RowProblem::WrongType(format!(
                "\"{name}\" holds a {}, not a string, as choice {}",
                value.kind(),
                place + 1
            ))
        })
    };
    values.iter().enumerate().map(text).collect()
}

/// Checks that every choice has a letter, by the number of which its likelihood is divided.
///
/// # Errors
/// One that has none.
pub fn check_lengths(name: &str, choices: &[String]) -> Result<(), RowProblem> {
    match choices.iter().position(String::is_empty) {
        None => Ok(()),
        Some(place) => Err(RowProblem::WrongType(format!(
            "\"{name}\": choice {} is empty, so there is nothing to measure; leave the row out",
            place + 1
        ))),
    }
}

/// Returns the whole number, 0 or above, that a value is.
pub fn place(value: &Value) -> Option<usize> {
    match value.kind() {
        ValueKind::Number if value.is_integer() => usize::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// Returns why an answer is none.
pub fn no_such_choice(column: &'static str, found: &Value, expected: String) -> RowProblem {
    RowProblem::NoSuchChoice {
        column,
        found: match found.as_str() {
            Some(text) => format!("{text:?}"),
            None => found.to_string(),
        },
        expected,
    }
}
