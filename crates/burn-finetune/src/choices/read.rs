use super::examples::Examples;
use super::question::Placed;
use super::task::{ChoiceColumns, ChoiceTask};
use crate::data::source::{self, Content, Record};
use crate::data::{Counts, RowEncoder, Sources, Told};
use crate::error::{FinetuneError, Place, RowProblem};
use burn_qlora::Continuations;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most columns that are remembered as not read; of endless names a warning tells a few.
const UNREAD: usize = 1000;

/// Questions of one task as a model is asked them.
#[derive(Debug, Clone)]
pub struct ChoiceData {
    pub(super) task: ChoiceTask,
    pub(super) asked: Vec<Asked>,
    warnings: Vec<Told>,
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
        let mut reading = Reading::default();
        let task = reading.read(sources, max_rows)?;
        let Reading {
            placed: questions,
            mut counts,
            ..
        } = reading;
        let mut examples = Reading {
            task: Some(task),
            ..Reading::default()
        };
        if let Some(shots) = shots {
            examples.read(shots.sources, usize::MAX)?;
            counts.warnings.append(&mut examples.counts.warnings);
        }
        let count = shots.map_or(0, |shots| shots.count);
        let mut examples = Examples::new(task, &examples.placed, count);
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
            None => Ok(ChoiceData {
                task,
                asked: found,
                warnings: counts.warnings,
            }),
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

    /// Returns what the user should hear of the files: columns and files that are not read.
    pub fn warnings(&self) -> &[Told] {
        &self.warnings
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

/// Questions as files have them.
#[derive(Default)]
struct Reading {
    task: Option<ChoiceTask>,
    placed: Vec<Placed>,
    counts: Counts,
}

impl Reading {
    /// Reads the questions of files.
    fn read(&mut self, sources: &Sources, max_rows: usize) -> Result<ChoiceTask, FinetuneError> {
        let files = sources.files()?;
        for (folder, message) in files.left_out {
            self.counts.warn_of_folder(&folder, message);
        }
        for file in &files.read {
            self.read_file(file.path(), max_rows)?;
        }
        let first = files.read.first();
        let nothing = || FinetuneError::NoData {
            path: first.map_or_else(PathBuf::new, |file| file.path().to_owned()),
            reason: "there is no question in it",
        };
        let task = self.task.filter(|_| !self.placed.is_empty());
        task.ok_or_else(nothing)
    }

    fn read_file(&mut self, path: &Path, max_rows: usize) -> Result<(), FinetuneError> {
        let opened = source::open(path, &ChoiceColumns).map_err(|fault| fault.of(path))?;
        let Content::Rows { rows, unread } = opened else {
            return Err(FinetuneError::Format {
                path: path.to_owned(),
                reason:
                    "a text holds no questions with choices; give rows of MMLU, ARC or HellaSwag"
                        .into(),
            });
        };
        let mut unread: BTreeSet<String> = unread.into_iter().collect();
        for record in rows.take(max_rows - self.placed.len()) {
            let Record { place, value } = record.map_err(|fault| fault.of(path))?;
            let (task, question) = ChoiceTask::read(&value, self.task)
                .map_err(|problem| line(path, place, problem))?;
            self.task = Some(task);
            if unread.len() < UNREAD {
                unread.extend(task.unread(&value));
            }
            self.placed.push(Placed {
                path: path.to_owned(),
                place,
                question,
            });
        }
        if let Some(task) = self.task {
            unread.retain(|name| !task.columns().contains(&name.as_str()));
        }
        self.counts.warn_of_columns(path, unread);
        Ok(())
    }
}

fn line(path: &Path, line: Place, problem: RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
