//! The model's own answers to the prompts of rows, many at once: compared with the expected ones, to the letter, and written
//! down.

/// A question on its way.
mod asking;

use std::cmp::Reverse;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use burn_finetune::{Dataset, Row, TextEncoder};
use burn_qlora_llama::{Decoder, GenerationRequest};
use serde::Serialize;
use tensor_files::AtomicFile;

use crate::opened_model::OpenedModel;
use crate::progress;
use crate::run::Answering;
use crate::stop::Stop;
use asking::Asking;

/// The number of answers that were right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExactMatch {
    /// The share of the answers that were exactly the expected ones, 0 to 1.
    pub exact_match: f64,
    /// The number of answers asked for.
    pub exact_match_rows: usize,
    /// The number that were right.
    #[serde(skip)]
    pub matched: usize,
}

/// What is to be answered, and what becomes of the answers.
pub struct Answers<'a> {
    data: &'a Dataset,
    texts: TextEncoder<'a>,
    stop: Stop,
    answering: &'a Answering,
    /// The file of the answers, which appears when all are there.
    file: Option<AtomicFile>,
    /// The rows in the order in which they are asked: those of like prompts together, the longest first.
    order: Vec<usize>,
    batch_size: usize,
}

/// A row as a question.
#[derive(Debug)]
pub struct Question {
    /// The tokens before the answer.
    prompt: Vec<u32>,
    /// Those of the expected answer and of its end.
    answer: Vec<u32>,
}

/// A line of the file of answers.
#[derive(Serialize)]
struct Line<'a> {
    prompt: String,
    expected: &'a str,
    answer: &'a str,
}

/// What the model made of a row.
#[derive(Clone, Debug, Default)]
struct Answer {
    expected: String,
    text: String,
}

impl<'a> Answers<'a> {
    /// Returns the rows as questions; `None` where nobody asks for the answers.
    ///
    /// # Errors
    /// A row without a prompt, as those of plain text are; a file of answers that cannot be begun; a tokenizer that fails.
    pub fn of(
        opened: &'a OpenedModel,
        data: &'a Dataset,
        answering: &'a Answering,
        batch_size: usize,
    ) -> Result<Option<Self>> {
        let flag = match answering {
            Answering {
                exact_match: true, ..
            } => "--exact-match",
            Answering {
                written: Some(_), ..
            } => "--generate",
            _ => return Ok(None),
        };
        let lengths = data
            .rows()
            .enumerate()
            .map(|(place, row)| -> Result<usize> {
                let question =
                    question(&row?).with_context(|| format!("{flag}, row {}", place + 1))?;
                Ok(question.prompt.len())
            });
        let lengths: Vec<usize> = lengths.collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..data.len()).collect();
        order.sort_by_key(|place| Reverse(lengths[*place]));
        let file = answering.written.as_ref();
        let file = file.map(|written| AtomicFile::create(&written.path));
        Ok(Some(Self {
            data,
            texts: opened.texts(),
            stop: Stop::of(opened)?,
            answering,
            file: file.transpose().context("--generate")?,
            order,
            batch_size,
        }))
    }

    /// Lets the model answer every row's question greedily, and returns how many answers are right if they are compared. An answer
    /// that is only compared is not written to its end once it has gone wrong.
    ///
    /// # Errors
    /// Logits that are no numbers, a device or a tokenizer that fails, a file that cannot be written.
    pub fn ask(mut self, llama: &Decoder) -> Result<Option<ExactMatch>> {
        let bar = progress::counter("answers");
        bar.set_length(self.data.len() as u64);
        let mut answers = vec![Answer::default(); self.data.len()];
        for places in self.order.chunks(self.batch_size) {
            for (place, answer) in places.iter().zip(self.answer(llama, places)?) {
                answers[*place] = answer;
            }
            bar.inc(places.len() as u64);
        }
        bar.finish_and_clear();
        if let Some(mut file) = self.file.take() {
            self.write(&answers, &mut file)?;
            file.commit()?;
        }
        let right = answers
            .iter()
            .filter(|answer| answer.text == answer.expected);
        let matched = right.count();
        Ok(self.answering.exact_match.then(|| ExactMatch {
            exact_match: matched as f64 / self.data.len().max(1) as f64,
            exact_match_rows: self.data.len(),
            matched,
        }))
    }

    /// Returns what the model answers to the rows at `places`.
    fn answer(&self, llama: &Decoder, places: &[usize]) -> Result<Vec<Answer>> {
        let questions = places.iter().map(|place| question(&self.data.row(*place)?));
        let questions: Vec<Question> = questions.collect::<Result<_>>()?;
        let asking = questions.iter().map(|question| Asking::new(self, question));
        let mut asking: Vec<Asking<'_>> = asking.collect::<Result<_>>()?;
        let sampling: Vec<_> = asking.iter().map(Asking::sampling).collect();
        let requests = questions.iter().zip(&sampling);
        let requests = requests.map(|(question, config)| GenerationRequest {
            prompt: &question.prompt,
            config,
            seed: 0,
        });
        let requests: Vec<_> = requests.collect();
        let found = llama.generate_batch(&requests, |row, token| {
            if asking[row].goes_on(token) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let answers = asking
            .into_iter()
            .zip(&found)
            .map(|(asking, found)| -> Result<Answer> {
                let text = self.texts.decode(&found.tokens)?;
                Ok(Answer {
                    text: self.stop.cut(&text).to_owned(),
                    expected: asking.into_expected(),
                })
            });
        answers.collect()
    }

    fn write(&self, answers: &[Answer], file: &mut AtomicFile) -> Result<()> {
        for (row, answer) in self.data.rows().zip(answers) {
            let line = Line {
                prompt: self.texts.decode_all(&question(&row?)?.prompt)?,
                expected: &answer.expected,
                answer: &answer.text,
            };
            file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())?;
        }
        Ok(())
    }
}

/// Returns the last answer of a row, with the tokens before it.
///
/// # Errors
/// There is nothing before it.
fn question(row: &Row) -> Result<Question> {
    let end = row
        .learn
        .iter()
        .rposition(|learn| *learn)
        .map_or(0, |last| last + 1);
    let start = row.learn[..end]
        .iter()
        .rposition(|learn| !learn)
        .map_or(0, |last| last + 1);
    ensure!(
        start > 1,
        "it has no prompt to answer; use rows with a prompt or messages"
    );
    Ok(Question {
        prompt: row.ids[..start].to_vec(),
        answer: row.ids[start..end].to_vec(),
    })
}
