use super::reference::References;
use super::rows::PreferenceRows;
use crate::data::{BatchLayout, Dataset};
use crate::error::FinetuneError;
use crate::objective::{Objective, PreferenceReport, Totals};
use crate::ranks::Ranks;
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
    let report = evaluate_until(
        model,
        &rows,
        objective,
        batch_size,
        &|| false,
        &Ranks::single(),
    )?;
    Ok(report.expect("an evaluation that nobody stops comes to its end"))
}

/// Evaluates as [`evaluate_preferences`] does, each of `ranks` its share of the batches, but gives up, with `None`, when `stop` says
/// so before a batch of any of them.
pub(crate) fn evaluate_until<M: CausalLm>(
    model: &M,
    rows: &PreferenceRows<'_>,
    objective: Objective,
    batch_size: usize,
    stop: &dyn Fn() -> bool,
    ranks: &Ranks,
) -> Result<Option<PreferenceEvaluation>, FinetuneError> {
    let model = model.valid();
    let device = model.device().without_autodiff();
    let layout = BatchLayout::of(&model, 0.0);
    let (mut scored, mut mismatched) = (Vec::new(), Vec::new());
    let batches = rows.len().div_ceil(batch_size);
    let places = |batch: usize| -> Vec<usize> {
        let start = batch * batch_size;
        (start..(start + batch_size).min(rows.len())).collect()
    };
    // Whether a rank gave up, sequences, tokens whose likelihood counts, and of each batch what of it is no number.
    let mut sums = vec![0.0; 3 + batches];
    for index in ranks.share(batches) {
        if stop() {
            sums[0] = 1.0;
            break;
        }
        let places = places(index);
        let batch = rows.batch(&places, layout, &device)?;
        sums[1] += batch.len() as f64;
        sums[2] += batch.nll_tokens() as f64;
        let found = batch.scored_by(&model)?;
        if let Some(broken) = found.iter().find(|scored| !scored.answer.sum.is_finite()) {
            sums[3 + index] = broken.answer.sum;
            break;
        }
        scored.extend(found);
        if let Some(batch) = rows.mismatched(&places, layout, &device)? {
            mismatched.extend(batch.scored_by(&model)?);
        }
    }
    ranks.sum(&mut sums)?;
    let (told, broken) = sums.split_at(3);
    if let Some(index) = broken.iter().position(|value| !value.is_finite()) {
        return Err(FinetuneError::EvalNotFinite {
            value: broken[index],
            rows: rows.places(places(index)),
        });
    }
    if told[0] > 0.0 {
        return Ok(None);
    }
    let totals = Totals {
        examples: objective.examples().examples(told[1] as usize),
        nll_tokens: told[2] as usize,
        kl: Totals::kl_over(&mismatched, ranks)?,
    };
    let judged = objective.judge(&scored, &totals);
    let mut loss = [judged.loss];
    ranks.sum(&mut loss)?;
    let loss = loss[0] / totals.examples.max(1) as f64;
    let kl = objective.estimates_kl().then_some(totals.kl);
    let tally = judged.tally.over(ranks, kl)?;
    if !loss.is_finite() {
        return Err(FinetuneError::EvalNotFinite {
            value: loss,
            rows: Vec::new(),
        });
    }
    Ok(Some(PreferenceEvaluation {
        loss,
        examples: totals.examples,
        preferences: tally.report(),
    }))
}
