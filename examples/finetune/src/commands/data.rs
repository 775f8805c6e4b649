//! `finetune data`: what a data set becomes, before anything is trained on it.

/// The numbers.
mod measured;
/// The numbers as a text.
mod table;

use std::env;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use burn_finetune::{Dataset, DatasetBuilder, Verdicts};
use serde::Serialize;

use crate::opened_model::OpenedModel;
use crate::run::DataRun;
use crate::shown_rows::{self, Marks, Part};
use measured::Measured;

/// A row as `--show` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    /// Where its examples are.
    places: Vec<String>,
    tokens: usize,
    learnt: usize,
    /// The parts of each example in it, or of both answers of a pair.
    examples: Vec<Vec<Part>>,
    /// What is said of each of these, where they are preferences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verdicts: Vec<&'static str>,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    measured: &'a Measured,
    shown: &'a [Shown],
}

/// Prints rows and numbers.
///
/// # Errors
/// Whatever is wrong with the model, and a data file that cannot be read. Examples that cannot be used are counted.
pub fn run(run: &DataRun) -> Result<()> {
    let training = &run.training;
    let opened = OpenedModel::open(&training.model, None, training.more_tokens())?;
    let encoder = opened.encoder(training.limits)?;
    let mut builder = DatasetBuilder::default();
    builder.survey(run.data.sources()?, &encoder)?;
    let data = builder.finish()?;
    let measured = Measured::of(run, encoder.max_len, &data)?;
    let rows = if training.packing {
        data.packed(encoder.max_len)?
    } else {
        data
    };
    let shown = shown(&opened, &rows, run.show)?;
    let mut text = String::new();
    for row in &shown {
        text += &described(row, marks());
    }
    text += &table::of(&measured);
    if run.json {
        let report = Report {
            measured: &measured,
            shown: &shown,
        };
        text += &serde_json::to_string(&report)?;
        text.push('\n');
    }
    print(&text)
}

/// Returns the first rows.
fn shown(opened: &OpenedModel, rows: &Dataset, count: usize) -> Result<Vec<Shown>> {
    let first = 0..count.min(rows.len());
    let shown = first.map(|place| {
        let row = rows.row(place)?;
        Ok(Shown {
            places: rows.places([place]),
            tokens: row.len(),
            learnt: row.targets(),
            examples: shown_rows::parts(&opened.tokenizer, &row)?,
            verdicts: verdicts(row.verdicts(), row.sequences().count()),
        })
    });
    shown.collect()
}

fn described(row: &Shown, marks: Marks) -> String {
    let examples = row.examples.iter();
    let examples: Vec<String> = examples
        .map(|parts| shown_rows::marked(parts, marks))
        .collect();
    let shown = if row.verdicts.is_empty() {
        examples.join("\n--- in the same row, without seeing what is before\n")
    } else {
        let judged = row.verdicts.iter().zip(examples);
        let judged = judged.map(|(verdict, text)| format!("--- {verdict}\n{text}"));
        judged.collect::<Vec<_>>().join("\n")
    };
    format!(
        "--- {}: {} tokens, {} learnt\n{shown}\n\n",
        row.places.join(", "),
        row.tokens,
        row.learnt
    )
}

/// Returns what is said of each sequence of a row.
fn verdicts(verdicts: &Verdicts, sequences: usize) -> Vec<&'static str> {
    match verdicts {
        Verdicts::None => Vec::new(),
        Verdicts::Pairs => ["chosen", "rejected"]
            .into_iter()
            .cycle()
            .take(sequences)
            .collect(),
        Verdicts::Labels(labels) => {
            let label = |desirable: &bool| {
                if *desirable {
                    "desirable"
                } else {
                    "undesirable"
                }
            };
            labels.iter().map(label).collect()
        }
    }
}

/// Returns how stdout shows what is learnt.
fn marks() -> Marks {
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    if io::stdout().is_terminal() && !set("NO_COLOR") && !is_dumb {
        Marks::Colour
    } else {
        Marks::Brackets
    }
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let printed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match printed {
        // Who closes the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}
