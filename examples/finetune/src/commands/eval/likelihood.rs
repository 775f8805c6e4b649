use anyhow::Result;
use burn_finetune::{EvalReport, evaluate};
use serde::Serialize;

use crate::answers::{Answers, ExactMatch};
use crate::commands::with_dtype;
use crate::console::say;
use crate::opened_model::OpenedModel;
use crate::run::{Answering, EvalRun};

/// The object of `--json`.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    loss: EvalReport,
    #[serde(flatten)]
    answers: Option<ExactMatch>,
}

/// Measures loss and perplexity, and lets the model answer.
///
/// # Errors
/// As [`run`](super::run); a file of answers that cannot be written.
pub fn measure(run: &EvalRun, answering: &Answering, opened: &OpenedModel) -> Result<String> {
    let encoder = opened.encoder(run.limits)?;
    let data = opened.dataset(&run.data, &encoder)?.head(run.max_rows)?;
    let answers = Answers::of(opened, &data, answering, run.batch_size)?;
    let llama = opened.load_with_adapter(run.adapter.as_deref(), &run.model.device)?;

    opened.tell_of_second_quantization();
    let loss = evaluate(&llama, &data, run.batch_size)
        .map_err(|error| with_dtype(error.into(), run.model.compute_dtype))?;
    let answers = match answers {
        Some(answers) => answers.ask(&llama)?,
        None => None,
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
    if let Some(written) = &answering.written {
        say!("answers     {}", written.path.display());
    }
    Ok(serde_json::to_string(&Measured { loss, answers })?)
}
