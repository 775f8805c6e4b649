//! Loss and perplexity on held-out rows.

use crate::data::{Batch, Dataset, Row};
use crate::error::FinetuneError;
use burn::tensor::Tensor;
use burn_qlora::CausalLm;
use serde::Serialize;

/// Loss and perplexity of a model on a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EvalReport {
    /// Mean negative log-likelihood of a target token, in nats.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Number of target tokens.
    pub tokens: usize,
}

/// Runs `model` over `dataset`, without gradients and dropout, and returns the mean over all target tokens.
///
/// # Errors
/// [`FinetuneError::Device`] when a loss cannot be read, [`FinetuneError::Read`] when a row cannot.
///
/// # Panics
/// When `batch_size` is 0.
pub fn evaluate<M: CausalLm>(
    model: &M,
    dataset: &Dataset,
    batch_size: usize,
) -> Result<EvalReport, FinetuneError> {
    let model = model.valid();
    let device = model.device().without_autodiff();
    let mut sum = 0.0;
    let mut tokens = 0;
    for start in (0..dataset.len()).step_by(batch_size) {
        let places = start..(start + batch_size).min(dataset.len());
        let rows: Vec<Row> = places
            .map(|place| dataset.row(place))
            .collect::<Result<_, _>>()?;
        let batch = Batch::collate(&rows, &device);
        tokens += batch.target_tokens;
        // Read batch by batch, so that a device never has more than one in flight.
        sum += scalar("evaluation loss", model.loss_sum(&batch.tensors))?;
    }
    let nll = sum / tokens.max(1) as f64;
    Ok(EvalReport {
        nll,
        perplexity: nll.exp(),
        tokens,
    })
}

fn scalar(what: &str, value: Tensor<1>) -> Result<f64, FinetuneError> {
    Ok(read(what, value)?.into_iter().sum())
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
