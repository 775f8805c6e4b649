/// Python's random numbers.
mod python;

use super::question::{Placed, Question};
use super::task::ChoiceTask;
use crate::error::FinetuneError;
use python::PythonRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The seed that the harness draws examples by.
const SEED: u32 = 1234;

/// The questions that stand, with their answers, before others.
pub struct Examples<'a> {
    count: usize,
    by_subject: BTreeMap<Option<&'a str>, Vec<&'a Question>>,
    files: BTreeSet<&'a Path>,
    /// What draws them, where they are not the first.
    random: Option<PythonRandom>,
}

impl<'a> Examples<'a> {
    /// Returns `count` of `placed` for each question of a task.
    pub fn new(task: ChoiceTask, placed: &'a [Placed], count: usize) -> Self {
        let mut by_subject: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for Placed { question, .. } in placed {
            let subject = question.subject.as_deref();
            by_subject.entry(subject).or_default().push(question);
        }
        Self {
            count,
            by_subject,
            files: placed.iter().map(|placed| placed.path.as_path()).collect(),
            random: task.draws_examples().then(|| PythonRandom::new(SEED)),
        }
    }

    /// Returns those of the next question: of its subject, and never itself.
    ///
    /// # Errors
    /// There are fewer.
    pub fn before(&mut self, asked: &Placed) -> Result<Vec<&'a Question>, FinetuneError> {
        let subject = asked.question.subject.as_deref();
        let mut fitting: &[&Question] = match self.by_subject.get(&subject) {
            Some(fitting) => fitting,
            None => &[],
        };
        let others: Vec<&Question>;
        if self.files.contains(asked.path.as_path()) {
            let all = fitting.iter().copied();
            others = all.filter(|other| **other != asked.question).collect();
            fitting = &others;
        }
        if fitting.len() < self.count {
            return Err(FinetuneError::Shots {
                path: asked.path.clone(),
                line: asked.place,
                count: self.count,
                found: fitting.len(),
                subject: asked.question.subject.clone(),
            });
        }
        Ok(match &mut self.random {
            Some(random) => {
                let places = random.sample(fitting.len(), self.count);
                places.into_iter().map(|place| fitting[place]).collect()
            }
            None => fitting[..self.count].to_vec(),
        })
    }
}
