//! The model's greedy answers compared with the expected ones, to the letter.

use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow, ensure};
use burn_finetune::{Dataset, Row};
use burn_qlora_llama::{Decoder, SamplingConfig};
use serde::Serialize;
use tokenizers::Tokenizer;

use crate::opened_model::OpenedModel;
use crate::progress;

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

/// A row as a question: the tokens before the answer, and the answer's text.
#[derive(Debug)]
pub struct Question {
    prompt: Vec<u32>,
    expected: String,
    /// Tokens that the expected answer takes, its end included.
    tokens: usize,
}

/// Returns the last answer of every row, with the tokens before it.
///
/// # Errors
/// A row without a prompt, as those of plain text are.
pub fn questions(opened: &OpenedModel, data: &Dataset) -> Result<Vec<Question>> {
    let rows = data.rows().enumerate();
    rows.map(|(place, row)| {
        question(opened, &row?).with_context(|| format!("--exact-match, row {}", place + 1))
    })
    .collect()
}

fn question(opened: &OpenedModel, row: &Row) -> Result<Question> {
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
    let answer = &row.ids[start..end];
    // What follows the end of a turn, a line break say, is the template's and not the answer's.
    let stop = &opened.checkpoint.config().eos_token_ids;
    let answer_len = answer
        .iter()
        .position(|token| stop.contains(token))
        .unwrap_or(answer.len());
    Ok(Question {
        prompt: row.ids[..start].to_vec(),
        expected: text(&opened.tokenizer, &answer[..answer_len])?,
        tokens: answer.len(),
    })
}

/// Lets the model answer every question greedily. An answer that has gone wrong is not written to its
/// end.
///
/// # Errors
/// A device that fails.
pub fn ask(opened: &OpenedModel, llama: &Decoder, questions: &[Question]) -> Result<ExactMatch> {
    let bar = progress::counter("answers");
    bar.set_length(questions.len() as u64);
    let mut matched = 0;
    for question in questions {
        matched += usize::from(is_right(&opened.tokenizer, llama, question)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(ExactMatch {
        exact_match: matched as f64 / questions.len().max(1) as f64,
        exact_match_rows: questions.len(),
        matched,
    })
}

fn is_right(tokenizer: &Tokenizer, llama: &Decoder, question: &Question) -> Result<bool> {
    // Two tokens more than expected: one to see that it ends, one for a text split otherwise.
    let sampling = SamplingConfig::new().with_max_tokens(question.tokens + 2);
    let mut written = Vec::new();
    let answer = llama.generate(&question.prompt, &sampling, 0, |token| {
        written.push(token);
        match text(tokenizer, &written) {
            // Half a character shows as U+FFFD until its other half comes.
            Ok(so_far)
                if !question
                    .expected
                    .starts_with(so_far.trim_end_matches('\u{fffd}')) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    })?;
    Ok(text(tokenizer, &answer.tokens)? == question.expected)
}

fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String> {
    tokenizer
        .decode(tokens, true)
        .map_err(|error| anyhow!("tokenizer: {error}"))
}
