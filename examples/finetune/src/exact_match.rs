//! The model's greedy answers compared with the expected ones, to the letter.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use burn_finetune::{Dataset, Row, TextEncoder};
use burn_qlora_llama::{Decoder, SamplingConfig};
use serde::Serialize;

use crate::opened_model::OpenedModel;
use crate::progress;
use crate::stop::Stop;

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

/// A row as a question.
#[derive(Debug)]
struct Question {
    /// The tokens before the answer.
    prompt: Vec<u32>,
    /// Those of the expected answer and of its end.
    answer: Vec<u32>,
}

/// Checks that every row has an answer and tokens before it.
///
/// # Errors
/// A row without a prompt, as those of plain text are.
pub fn check(data: &Dataset) -> Result<()> {
    questions(data).try_for_each(|question| question.map(drop))
}

/// Goes through the last answer of every row, with the tokens before it.
fn questions(data: &Dataset) -> impl Iterator<Item = Result<Question>> {
    let rows = data.rows().enumerate();
    rows.map(|(place, row)| {
        question(&row?).with_context(|| format!("--exact-match, row {}", place + 1))
    })
}

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

/// Lets the model answer every row's question greedily. An answer that has gone wrong is not written to its
/// end.
///
/// # Errors
/// As for [`check`]; logits that are no numbers, a device or a tokenizer that fails.
pub fn ask(opened: &OpenedModel, llama: &Decoder, data: &Dataset) -> Result<ExactMatch> {
    let stop = Stop::of(opened)?;
    let bar = progress::counter("answers");
    bar.set_length(data.len() as u64);
    let mut matched = 0;
    for question in questions(data) {
        matched += usize::from(is_right(opened.texts(), &stop, llama, &question?)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(ExactMatch {
        exact_match: matched as f64 / data.len().max(1) as f64,
        exact_match_rows: data.len(),
        matched,
    })
}

fn is_right(
    texts: TextEncoder<'_>,
    stop: &Stop,
    llama: &Decoder,
    question: &Question,
) -> Result<bool> {
    // What follows the end of a turn, a line break say, is the template's and not the answer's.
    let expected = texts.decode(stop.answer(&question.answer))?;
    let expected = stop.cut(&expected);
    // Two tokens more than expected: one to see that it ends, one for a text split otherwise.
    let sampling = SamplingConfig::new()
        .with_max_tokens(question.answer.len() + 2)
        .with_stop_tokens(Some(stop.tokens()));
    let mut written = Vec::new();
    let answer = llama.generate(&question.prompt, &sampling, 0, |token| {
        written.push(token);
        let Ok(text) = texts.decode(&written) else {
            return ControlFlow::Continue(());
        };
        let shown = stop.shown(&text);
        // Half a character shows as U+FFFD until its other half comes.
        let is_on_the_way = expected.starts_with(shown.text.trim_end_matches('\u{fffd}'));
        if shown.ended || !is_on_the_way {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(stop.cut(&texts.decode(&answer.tokens)?) == expected)
}
