use super::reference::References;
use super::rows::PreferenceRows;
use crate::data::Dataset;
use crate::error::FinetuneError;
use crate::objective::{Objective, PreferenceReport, Totals};
use burn_qlora::CausalLm;
use serde::{Deserialize, Serialize};

/// An objective of preferences on a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreferenceEvaluation {
    /// Mean loss of a pair or an answer.
    pub loss: f64,
    /// Pairs or answers.
    pub examples: usize,
    /// What else is told of them.
    #[serde(flatten)]
    pub preferences: PreferenceReport,
}

/// Runs `model` over `data`, without gradients and dropout, and returns the mean of `objective` over all examples.
///
/// # Errors
/// [`FinetuneError::InvalidConfig`] for rows, a reference or a model that the objective cannot use,
/// [`FinetuneError::Device`], [`FinetuneError::EvalNotFinite`], [`FinetuneError::Read`].
///
/// # Panics
/// When `batch_size` is 0.
pub fn evaluate_preferences<M: CausalLm>(
    model: &M,
    data: &Dataset,
    references: Option<&References>,
    objective: Objective,
    batch_size: usize,
) -> Result<PreferenceEvaluation, FinetuneError> {
    let rows = PreferenceRows::new(data, references, objective)?;
    let report = evaluate_until(model, &rows, objective, batch_size, &|| false)?;
    Ok(report.expect("an evaluation that nobody stops comes to its end"))
}

/// Evaluates as [`evaluate_preferences`] does, but gives up, with `None`, when `stop` says so before a batch.
pub(crate) fn evaluate_until<M: CausalLm>(
    model: &M,
    rows: &PreferenceRows<'_>,
    objective: Objective,
    batch_size: usize,
    stop: &dyn Fn() -> bool,
) -> Result<Option<PreferenceEvaluation>, FinetuneError> {
    let model = model.valid();
    let device = model.device().without_autodiff();
    let (mut scored, mut mismatched) = (Vec::new(), Vec::new());
    let mut nll_tokens = 0;
    for start in (0..rows.len()).step_by(batch_size) {
        if stop() {
            return Ok(None);
        }
        let places: Vec<usize> = (start..(start + batch_size).min(rows.len())).collect();
        let batch = rows.batch(&places, &device)?;
        nll_tokens += batch.nll_tokens();
        let found = batch.scored_by(&model)?;
        if let Some(broken) = found.iter().find(|scored| !scored.answer.sum.is_finite()) {
            return Err(FinetuneError::EvalNotFinite {
                value: broken.answer.sum,
                rows: rows.places(places),
            });
        }
        scored.extend(found);
        if let Some(batch) = rows.mismatched(&places, &device)? {
            mismatched.extend(batch.scored_by(&model)?);
        }
    }
    let totals = Totals {
        examples: objective.examples().examples(scored.len()),
        nll_tokens,
        kl: Totals::kl_of(&mismatched),
    };
    let judged = objective.judge(&scored, &totals);
    let loss = judged.loss / totals.examples.max(1) as f64;
    if !loss.is_finite() {
        return Err(FinetuneError::EvalNotFinite {
            value: loss,
            rows: Vec::new(),
        });
    }
    Ok(Some(PreferenceEvaluation {
        loss,
        examples: totals.examples,
        preferences: judged.tally.report(),
    }))
}
