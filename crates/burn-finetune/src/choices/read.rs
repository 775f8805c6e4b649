use super::examples::Examples;
use super::question::Placed;
use super::task::{ChoiceColumns, ChoiceTask};
use crate::data::source::{self, Content};
use crate::data::{RowEncoder, Sources};
use crate::error::{FinetuneError, Place, RowProblem};
use burn_qlora::Continuations;
use std::path::{Path, PathBuf};

/// Questions of one task as a model is asked them.
#[derive(Debug, Clone)]
pub struct ChoiceData {
    pub(super) task: ChoiceTask,
    pub(super) asked: Vec<Asked>,
}

/// A question as tokens.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Its file and its place there.
    pub place: String,
    pub subject: Option<String>,
    /// Its choices in turn.
    pub tokens: Vec<Continuations>,
    /// The letters and the bytes of each choice.
    pub lengths: Vec<[usize; 2]>,
    /// The place of the right choice.
    pub answer: usize,
}

/// Questions with their answers that stand before every question.
#[derive(Debug, Clone, Copy)]
pub struct Shots<'a> {
    /// Their files.
    pub sources: &'a Sources,
    /// How many there are: of MMLU the first of the question's subject, of ARC and HellaSwag those that the harness draws, which
    /// are others for every question, else the first.
    pub count: usize,
}

impl RowEncoder<'_> {
    /// Reads the questions of files, at most `max_rows`, whose rows are those of one [`ChoiceTask`].
    ///
    /// What a model is given and what it is asked for is, token by token, what lm-evaluation-harness makes of these rows, with
    /// rows of `shots` as examples. A question is no example for itself, where both are read from one file. With
    /// [`truncate`](Self::truncate), what is too long loses its beginning.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`] for a file that is not read, [`FinetuneError::Line`] with the place of a
    /// row, [`FinetuneError::TooLong`], [`FinetuneError::NoData`], and [`FinetuneError::Shots`] where there are too few
    /// examples.
    pub fn choice_data(
        &self,
        sources: &Sources,
        shots: Option<Shots<'_>>,
        max_rows: usize,
    ) -> Result<ChoiceData, FinetuneError> {
        let (task, questions) = read(sources, None, max_rows)?;
        let examples = match shots {
            Some(shots) => read(shots.sources, Some(task), usize::MAX)?.1,
            None => Vec::new(),
        };
        let count = shots.map_or(0, |shots| shots.count);
        let mut examples = Examples::new(task, &examples, count);
        let mut found = Vec::with_capacity(questions.len());
        let mut too_long = TooLong::default();
        for placed in &questions {
            let context = placed.question.context(task, examples.before(placed)?);
            match self.choices(task, &context, &placed.question) {
                Ok(tokens) => found.push(asked(placed, tokens)),
                Err(RowProblem::TooLong { len, .. }) => too_long.add(placed, len),
                Err(problem) => return Err(line(&placed.path, placed.place, problem)),
            }
        }
        match too_long.first {
            None => Ok(ChoiceData { task, asked: found }),
            Some((path, line)) => Err(FinetuneError::TooLong {
                path,
                line,
                count: too_long.count,
                examples: questions.len(),
                longest: too_long.longest,
                max: self.max_len,
            }),
        }
    }
}

impl ChoiceData {
    /// Returns what its rows are.
    pub fn task(&self) -> ChoiceTask {
        self.task
    }

    /// Returns the number of questions.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Returns whether there is no question.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Goes through the questions as tokens: what stands before the choices, and these in turn. Where the beginning was cut off,
    /// each choice has its own.
    pub fn tokens(&self) -> impl Iterator<Item = &[Continuations]> {
        self.asked.iter().map(|asked| asked.tokens.as_slice())
    }
}

/// Returns a question as it is asked.
fn asked(placed: &Placed, tokens: Vec<Continuations>) -> Asked {
    let Placed {
        path,
        place,
        question,
    } = placed;
    let choices = question.choices.iter();
    Asked {
        place: format!("{}{place}", path.display()),
        subject: question.subject.clone(),
        tokens,
        lengths: choices
            .map(|choice| [choice.chars().count(), choice.len()])
            .collect(),
        answer: question.answer,
    }
}

/// The questions that are too long.
#[derive(Default)]
struct TooLong {
    first: Option<(PathBuf, Place)>,
    count: usize,
    longest: usize,
}

impl TooLong {
    fn add(&mut self, placed: &Placed, len: usize) {
        self.first
            .get_or_insert_with(|| (placed.path.clone(), placed.place));
        self.count += 1;
        self.longest = self.longest.max(len);
    }
}

/// Reads the questions of files, of the task `known` if there is one.
fn read(
    sources: &Sources,
    known: Option<ChoiceTask>,
    max_rows: usize,
) -> Result<(ChoiceTask, Vec<Placed>), FinetuneError> {
    let mut task = known;
    let mut found = Vec::new();
    let files = sources.files()?.read;
    for file in &files {
        let path = file.path();
        match source::open(path, &ChoiceColumns).map_err(|fault| fault.of(path))? {
            Content::Text(_) => {
                return Err(FinetuneError::Format {
                    path: path.to_owned(),
                    reason: "a text holds no questions with choices; give rows of MMLU, ARC or HellaSwag".into(),
                });
            }
            Content::Rows { rows, .. } => {
                for record in rows.take(max_rows - found.len()) {
                    let record = record.map_err(|fault| fault.of(path))?;
                    let (of_row, question) = ChoiceTask::read(&record.value, task)
                        .map_err(|problem| line(path, record.place, problem))?;
                    task = Some(of_row);
                    found.push(Placed {
                        path: path.to_owned(),
                        place: record.place,
                        question,
                    });
                }
            }
        }
    }
    match (task, files.first()) {
        (Some(task), _) if !found.is_empty() => Ok((task, found)),
        (_, file) => Err(FinetuneError::NoData {
            path: file.map_or_else(PathBuf::new, |file| file.path().to_owned()),
            reason: "there is no question in it",
        }),
    }
}

fn line(path: &Path, line: Place, problem: RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
