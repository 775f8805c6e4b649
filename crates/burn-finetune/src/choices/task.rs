/// Grade-school science.
mod arc;
/// Ends of descriptions.
mod hella_swag;
/// The values of a row.
mod keys;
/// Exam questions.
mod mmlu;
/// A prompt and what may follow it.
mod plain;

use super::question::Question;
use crate::data::example::fields::key;
use crate::data::example::told;
use crate::data::source::Wanted;
use crate::error::RowProblem;
use keys::Keys;
use minijinja::value::{Value, ValueKind};
use serde::Serialize;

/// What the rows of a file of questions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChoiceTask {
    /// Exam questions of many subjects (Hendrycks et al., arXiv 2009.03300): `question`, `choices`, `answer` and `subject`. A
    /// model is shown the choices behind letters, and asked for the letter; the harness's `mmlu`.
    Mmlu,
    /// Questions of grade-school science (Clark et al., arXiv 1803.05457): `question`, `choices` with their `label`, and
    /// `answerKey`. The harness's `arc_easy` and `arc_challenge`.
    Arc,
    /// Descriptions of which the end is asked (Zellers et al., arXiv 1905.07830): `activity_label`, `ctx_a` and `ctx_b` or
    /// `ctx`, `endings` and `label`. The harness's `hellaswag`.
    HellaSwag,
    /// `prompt`, `choices` and `answer`: the texts of the choices follow that of the prompt as they are.
    Plain,
}

/// The columns of all tasks.
pub struct ChoiceColumns;

/// Every column that may be read.
const COLUMNS: [&str; 12] = [
    "question",
    "choices",
    "answer",
    "subject",
    "answerKey",
    "activity_label",
    "ctx",
    "ctx_a",
    "ctx_b",
    "endings",
    "label",
    "prompt",
];

impl ChoiceTask {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmlu => "MMLU",
            Self::Arc => "ARC",
            Self::HellaSwag => "HellaSwag",
            Self::Plain => "prompts with choices",
        }
    }

    /// Returns what stands between a prompt and its answer.
    pub(super) fn delimiter(self) -> &'static str {
        match self {
            Self::Plain => "",
            _ => " ",
        }
    }

    /// Returns whether examples are drawn for each question, as the harness's tasks do that do not say otherwise.
    pub(super) fn draws_examples(self) -> bool {
        matches!(self, Self::Arc | Self::HellaSwag)
    }

    /// Returns what stands before everything else.
    pub(super) fn description(self, subject: Option<&str>) -> String {
        match (self, subject) {
            (Self::Mmlu, Some(subject)) => mmlu::description(subject),
            _ => String::new(),
        }
    }

    /// Returns the columns of its rows: those that are read, and those that say nothing of a question.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Mmlu => &["question", "subject", "choices", "answer"],
            Self::Arc => &["id", "question", "choices", "answerKey"],
            Self::HellaSwag => &[
                "ind",
                "activity_label",
                "ctx",
                "ctx_a",
                "ctx_b",
                "endings",
                "label",
                "source_id",
                "split",
                "split_type",
            ],
            Self::Plain => &["prompt", "choices", "answer"],
        }
    }

    /// Returns the columns of a row that are none of its own.
    pub(super) fn unread(self, row: &Value) -> impl Iterator<Item = String> {
        let names = Keys(row).names().into_iter();
        names.filter(move |name| !self.columns().contains(&name.as_str()))
    }

    /// Returns the task of a row by its columns.
    fn by_columns(has: impl Fn(&str) -> bool) -> Option<Self> {
        if has("endings") {
            Some(Self::HellaSwag)
        } else if has("answerKey") {
            Some(Self::Arc)
        } else if has("question") && has("choices") {
            Some(Self::Mmlu)
        } else if has("prompt") && has("choices") {
            Some(Self::Plain)
        } else {
            None
        }
    }

    /// Reads a row, which is of the task `before` if there is one.
    ///
    /// # Errors
    /// A row that is no object, asks nothing, is of another task, or holds something else than it should.
    pub(super) fn read(row: &Value, before: Option<Self>) -> Result<(Self, Question), RowProblem> {
        if row.kind() != ValueKind::Map {
            return Err(RowProblem::NotObject(row.kind().to_string()));
        }
        let keys = Keys(row);
        let Some(task) = Self::by_columns(|name| key(row, name).is_some()) else {
            return Err(RowProblem::NoChoices {
                found: told(&keys.names()),
            });
        };
        if let Some(before) = before.filter(|before| *before != task) {
            return Err(RowProblem::OtherTask {
                found: task.name(),
                before: before.name(),
            });
        }
        let question = match task {
            Self::Mmlu => mmlu::read(keys),
            Self::Arc => arc::read(keys),
            Self::HellaSwag => hella_swag::read(keys),
            Self::Plain => plain::read(keys),
        };
        Ok((task, question?))
    }
}

impl Wanted for ChoiceColumns {
    fn check(&self, found: &[String]) -> Result<(), RowProblem> {
        match ChoiceTask::by_columns(|column| found.iter().any(|name| name == column)) {
            Some(_) => Ok(()),
            None => Err(RowProblem::NoChoices { found: told(found) }),
        }
    }

    fn names(&self) -> Vec<&str> {
        COLUMNS.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: &str) -> Result<(ChoiceTask, Question), RowProblem> {
        ChoiceTask::read(&serde_json::from_str(row).unwrap(), None)
    }

    fn refused(row: &str) -> String {
        read(row).unwrap_err().to_string()
    }

    #[test]
    fn the_published_rows_of_arc_have_three_forms() {
        let question = Question {
            subject: None,
            prompt: "Question: Why?\nAnswer:".into(),
            choices: vec!["a b".into(), "c".into()],
            answer: 1,
        };
        for row in [
            r#"{"id":"M","question":"Why?","choices":{"text":["a b","c"],"label":["A","B"]},"answerKey":"B"}"#,
            r#"{"question":{"stem":"Why?","choices":[{"text":"a b","label":"1"},{"text":"c","label":"2"}]},"answerKey":"2"}"#,
            r#"{"question":"Why?","choices":[{"text":"a b","label":1},{"text":"c","label":2}],"answerKey":2}"#,
        ] {
            assert_eq!(read(row).unwrap(), (ChoiceTask::Arc, question.clone()));
        }
    }

    #[test]
    fn answers_are_places_or_letters() {
        for (answer, expected) in [("2", 2), ("\"C\"", 2), ("0", 0), ("\"A\"", 0)] {
            for asked in ["question", "prompt"] {
                let row = format!(r#"{{"{asked}":"?","choices":["x","y","z"],"answer":{answer}}}"#);
                assert_eq!(read(&row).unwrap().1.answer, expected, "{row}");
            }
        }
        let swag = r#"{"activity_label":"A","ctx":"b","endings":["x","y"],"label":"1"}"#;
        assert_eq!(read(swag).unwrap().1.answer, 1);
    }

    #[test]
    fn damaged_rows_are_refused_by_what_is_wrong() {
        for (row, expected) in [
            (r#"[1]"#, "a row is an object"),
            (
                r#"{"choices":["a","b"],"answer":0}"#,
                "no question with choices",
            ),
            (
                r#"{"question":"?","choices":["a"],"answer":0}"#,
                "\"choices\" has 1 of them",
            ),
            (
                r#"{"question":"?","choices":[],"answer":0}"#,
                "\"choices\" has 0 of them",
            ),
            (
                r#"{"question":"?","choices":"ab","answer":0}"#,
                "\"choices\" is a string, not a list",
            ),
            (
                r#"{"question":"?","choices":["a",2],"answer":0}"#,
                "\"choices\" holds a number, not a string, as choice 2",
            ),
            (
                r#"{"question":3,"choices":["a","b"],"answer":0}"#,
                "\"question\" is a number, not a string",
            ),
            (
                r#"{"question":"?","choices":["a","b"]}"#,
                "\"answer\" is missing",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answer":2}"#,
                "\"answer\" is 2, but it must be 0 to 1, or A to B",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answer":-1}"#,
                "\"answer\" is -1, but",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answer":0.5}"#,
                "\"answer\" is 0.5, but",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answer":"1"}"#,
                "\"answer\" is \"1\", but",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answer":"C"}"#,
                "\"answer\" is \"C\", but",
            ),
            (
                r#"{"prompt":"?","choices":["a",""],"answer":0}"#,
                "choice 2 is empty",
            ),
            (
                r#"{"prompt":"?","choices":["B","A"],"answer":"A"}"#,
                "stands for choice 1 and is the text of choice 2",
            ),
            (
                r#"{"question":"?","choices":{"text":["a","b"],"label":["A"]},"answerKey":"A"}"#,
                "2 texts and 1 labels",
            ),
            (
                r#"{"question":"?","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"}"#,
                "\"answerKey\" is \"C\", but it must be A or B",
            ),
            (
                r#"{"question":"?","choices":["a","b"],"answerKey":"A"}"#,
                "\"choices\" must be an object with \"text\" and \"label\"",
            ),
            (
                r#"{"choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"A"}"#,
                "\"question\" is missing",
            ),
            (
                r#"{"ctx":"b","endings":["x","y"],"label":1}"#,
                "\"activity_label\" is missing",
            ),
            (
                r#"{"activity_label":"A","endings":["x","y"],"label":1}"#,
                "\"ctx\" is missing",
            ),
            (
                r#"{"activity_label":"A","ctx":"b","endings":["x","y"],"label":""}"#,
                "\"label\" is \"\", but it must be 0 to 1",
            ),
            (
                r#"{"activity_label":"A","ctx":"b","endings":["x","y"],"label":"no"}"#,
                "\"label\" is \"no\", but",
            ),
            (
                r#"{"activity_label":"A","ctx":"b","endings":["x","[y]"],"label":0}"#,
                "choice 2 is empty",
            ),
        ] {
            let found = refused(row);
            assert!(found.contains(expected), "{row}: {found}");
        }
        let mmlu = serde_json::from_str(r#"{"question":"?","choices":["a","b"],"answer":0}"#);
        let error = ChoiceTask::read(&mmlu.unwrap(), Some(ChoiceTask::Arc)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a row of MMLU, and those before it are of ARC")
        );
    }
}
