//! Prompts that a model is to answer, in the forms that data has them in.

use crate::data::answers;
use crate::data::columns::Columns;
use crate::data::encode::RowEncoder;
use crate::data::example::Question;
use crate::data::source::{self, Content, Fault};
use crate::error::{FinetuneError, Place, RowProblem};
use std::io::Read;
use std::path::Path;

/// A prompt that a model is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The text that the model is given; of a conversation what its chat template writes.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
}

impl RowEncoder<'_> {
    /// Reads the prompts of a file: each line of a `.txt` file that is not blank, and of any other data file each row,
    /// which may lack the answer: `messages` or `conversations` up to the assistant's last turn, `prompt`, `instruction`
    /// with its input, or `text` to go on from.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`] for a file that is not read, [`FinetuneError::Line`] with the
    /// place of a row that asks nothing, and [`FinetuneError::NoData`].
    pub fn prompts(&self, path: &Path) -> Result<Vec<Prompt>, FinetuneError> {
        let columns = Columns::default();
        let mut prompts = Vec::new();
        match source::open(path, &columns).map_err(|fault| fault.of(path))? {
            Content::Text(mut lines) => {
                let mut text = String::new();
                let read = lines.read_to_string(&mut text);
                read.map_err(|error| Fault::Read(error).of(path))?;
                let lines = text.lines().enumerate();
                for (line, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
                    let prompt = self.prompt(Question::Text(text.to_owned()));
                    prompts
                        .push(prompt.map_err(|problem| at(path, Place::Line(line + 1), problem))?);
                }
            }
            Content::Rows { rows, .. } => {
                for record in rows {
                    let record = record.map_err(|fault| fault.of(path))?;
                    let prompt = Question::read(&record.value, &columns)
                        .and_then(|question| self.prompt(question));
                    prompts.push(prompt.map_err(|problem| at(path, record.place, problem))?);
                }
            }
        }
        if prompts.is_empty() {
            return Err(FinetuneError::NoData {
                path: path.to_owned(),
                reason: "there is no prompt in it",
            });
        }
        Ok(prompts)
    }

    fn prompt(&self, question: Question) -> Result<Prompt, RowProblem> {
        let (text, ids) = match question {
            Question::Text(text) => {
                let ids = self.texts().prompt(&text)?;
                (text, ids)
            }
            Question::Chat {
                messages,
                variables,
            } => {
                let template = self.template.ok_or(RowProblem::NoTemplate)?;
                let text = template.render_with(&messages, &variables, true);
                let text = text.map_err(answers::template_problem)?;
                let ids = self.texts().rendered(&text)?;
                (text, ids)
            }
        };
        self.check_vocabulary(&ids)?;
        Ok(Prompt { text, ids })
    }
}

fn at(path: &Path, line: Place, problem: RowProblem) -> FinetuneError {
    FinetuneError::Line {
        path: path.to_owned(),
        line,
        problem,
    }
}
