//! Loss and perplexity on held-out rows.

use crate::data::{Batch, BatchLayout, Dataset, Row};
use crate::error::FinetuneError;
use crate::ranks::Ranks;
use burn::tensor::Tensor;
use burn_paged::WeightPages;
use burn_qlora::CausalLm;
use serde::{Deserialize, Serialize};

/// Loss and perplexity of a model on a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Mean negative log-likelihood of a target token, in nats.
    pub nll: f64,
    /// `exp(nll)`, or the largest `f64` where that is beyond it.
    pub perplexity: f64,
    /// Number of target tokens.
    pub tokens: usize,
}

/// Runs `model` over `dataset`, without gradients and dropout, and returns the mean over all target tokens.
///
/// # Errors
/// [`FinetuneError::Device`] when a loss cannot be read, [`FinetuneError::EvalNotFinite`] when it is no number,
/// [`FinetuneError::Read`] when a row cannot be read.
///
/// # Panics
/// When `batch_size` is 0.
pub fn evaluate<M: CausalLm>(
    model: &M,
    dataset: &Dataset,
    batch_size: usize,
) -> Result<EvalReport, FinetuneError> {
    let report = evaluate_until(model, dataset, batch_size, &|| false, &Ranks::single())?;
    Ok(report.expect("an evaluation that nobody stops comes to its end"))
}

/// Evaluates as [`evaluate`] does, each of `ranks` its share of the batches, but gives up, with `None`, when `stop` says so before
/// a batch of any of them.
pub(crate) fn evaluate_until<M: CausalLm>(
    model: &M,
    dataset: &Dataset,
    batch_size: usize,
    stop: &dyn Fn() -> bool,
    ranks: &Ranks,
) -> Result<Option<EvalReport>, FinetuneError> {
    let model = model.valid();
    let device = model.device().without_autodiff();
    let layout = BatchLayout::of(&model, 0.0);
    let batches = dataset.len().div_ceil(batch_size);
    let places = |batch: usize| {
        let start = batch * batch_size;
        start..(start + batch_size).min(dataset.len())
    };
    // Whether a rank gave up, the tokens, and the loss of each batch: a place for each, so that the losses are added up in the
    // order of the batches.
    let mut sums = vec![0.0; 2 + batches];
    for index in ranks.share(batches) {
        if stop() {
            sums[0] = 1.0;
            break;
        }
        let rows: Vec<Row> = places(index)
            .map(|place| dataset.row(place))
            .collect::<Result<_, _>>()?;
        let batch = Batch::laid_out(&rows, layout, &device);
        sums[1] += batch.target_tokens as f64;
        // Read batch by batch, so that a device never has more than one in flight.
        let loss = scalar("evaluation loss", model.loss_sum(&batch.tensors))?;
        check_weights(&model)?;
        sums[2 + index] = loss;
        if !loss.is_finite() {
            break;
        }
    }
    ranks.sum(&mut sums)?;
    let (told, losses) = sums.split_at(2);
    if let Some(index) = losses.iter().position(|loss| !loss.is_finite()) {
        return Err(FinetuneError::EvalNotFinite {
            value: losses[index],
            rows: dataset.places(places(index)),
        });
    }
    if told[0] > 0.0 {
        return Ok(None);
    }
    let tokens = told[1] as usize;
    let nll = losses.iter().fold(0.0, |sum, loss| sum + loss) / tokens.max(1) as f64;
    Ok(Some(EvalReport {
        nll,
        perplexity: nll.exp().min(f64::MAX),
        tokens,
    }))
}

fn scalar(what: &str, value: Tensor<1>) -> Result<f64, FinetuneError> {
    Ok(read(what, value)?.into_iter().sum())
}

/// Checks that what `model` has computed is of use.
///
/// # Errors
/// [`FinetuneError::Paged`] for a weight in pages that could not be read.
pub(crate) fn check_weights<M: CausalLm>(model: &M) -> Result<(), FinetuneError> {
    Ok(model.weight_pages().map_or(Ok(()), WeightPages::check)?)
}

/// Reads the values of a tensor to the host.
pub(crate) fn read(what: &str, values: Tensor<1>) -> Result<Vec<f64>, FinetuneError> {
    let data = values
        .try_into_data()
        .map_err(|error| FinetuneError::Device {
            what: what.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(data.iter::<f64>().collect())
}
