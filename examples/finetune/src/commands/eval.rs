//! `finetune eval`: loss and perplexity, and how many answers are exactly right.

use anyhow::Result;
use burn_finetune::{EvalReport, evaluate};
use serde::Serialize;

use super::with_dtype;
use crate::console::say;
use crate::exact_match::{self, ExactMatch};
use crate::opened_model::{MoreTokens, OpenedModel};
use crate::run::EvalRun;
use crate::trained_on;

/// The object of `--json`.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    loss: EvalReport,
    #[serde(flatten)]
    answers: Option<ExactMatch>,
}

/// Measures and prints.
///
/// # Errors
/// Whatever is wrong with the model, the adapter or the data.
pub fn run(run: &EvalRun) -> Result<()> {
    let trained = run.adapter.as_deref().and_then(trained_on::of_adapter);
    let opened = OpenedModel::open(
        &run.model,
        trained,
        MoreTokens::OfAdapter(run.adapter.as_deref()),
    )?;
    let encoder = opened.encoder(run.limits)?;
    let data = opened.dataset(&run.data, &encoder)?.head(run.max_rows)?;
    if run.exact_match {
        exact_match::check(&data)?;
    }
    let llama = opened.load_with_adapter(run.adapter.as_deref(), &run.model.device)?;

    opened.tell_of_second_quantization();
    let loss = evaluate(&llama, &data, run.batch_size)
        .map_err(|error| with_dtype(error.into(), run.model.compute_dtype))?;
    let answers = match run.exact_match {
        true => Some(exact_match::ask(&opened, &llama, &data)?),
        false => None,
    };
    say!("computed in {}", run.model.compute_dtype);
    say!("rows        {}", data.len());
    say!("tokens      {}", loss.tokens);
    say!("loss        {:.4} nats a token", loss.nll);
    say!("perplexity  {:.4}", loss.perplexity);
    if let Some(answers) = &answers {
        say!(
            "exact match {:.1} % ({} of {} answers)",
            100.0 * answers.exact_match,
            answers.matched,
            answers.exact_match_rows
        );
    }
    if run.json {
        say!("{}", serde_json::to_string(&Measured { loss, answers })?);
    }
    Ok(())
}
