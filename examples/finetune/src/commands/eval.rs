//! `finetune eval`: what a model has learnt.

/// Which of several choices is the likeliest.
mod choices;
/// Loss and perplexity, and the model's own answers.
mod likelihood;
/// Which of two answers is preferred.
mod preferences;

use anyhow::Result;

use crate::console::say;
use crate::opened_model::{MoreTokens, OpenedModel};
use crate::run::{EvalRun, Measure};
use crate::trained_on;

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
    let json = match &run.measure {
        Measure::Likelihood(answering) => likelihood::measure(run, answering, &opened)?,
        Measure::Preferences(objective) => preferences::measure(run, *objective, &opened)?,
        Measure::Choices(examples) => choices::measure(run, examples.as_ref(), &opened)?,
    };
    if run.json {
        say!("{json}");
    }
    Ok(())
}
