use super::task::ChoiceTask;
use crate::error::Place;
use std::path::PathBuf;

/// A question with choices, as a model is asked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is about, where that is told.
    pub subject: Option<String>,
    /// The text up to the answer.
    pub prompt: String,
    /// The texts that may be the answer, without what stands between it and the prompt.
    pub choices: Vec<String>,
    /// The place of the right one.
    pub answer: usize,
}

/// A question and where it is from.
#[derive(Debug)]
pub struct Placed {
    /// The file.
    pub path: PathBuf,
    /// The place there.
    pub place: Place,
    /// The question.
    pub question: Question,
}

impl Question {
    /// Returns the question with its answer, as an example before another.
    fn answered(&self, task: ChoiceTask) -> String {
        let answer = &self.choices[self.answer];
        format!("{}{}{answer}\n\n", self.prompt, task.delimiter())
    }

    /// Returns the text that a model is given: what the task says of the subject, `examples` with their answers, and the
    /// question.
    pub fn context<'a>(
        &self,
        task: ChoiceTask,
        examples: impl IntoIterator<Item = &'a Question>,
    ) -> String {
        let mut text = task.description(self.subject.as_deref());
        for example in examples {
            text += &example.answered(task);
        }
        text + &self.prompt
    }
}
