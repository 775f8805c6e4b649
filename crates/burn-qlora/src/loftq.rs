//! LoftQ: adapters that start as what quantization took from the weights (arXiv 2310.08659).
//!
//! - `low_rank`: the matrix of a rank that is closest to another one
//! - `eigen`: eigenvectors of a small matrix

mod eigen;
mod low_rank;

use std::num::NonZeroUsize;

use burn_nf4::{BlockwiseTensor, BlockwiseTensorError};
use nf4::QuantizedMatrix;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::blockwise_weight::BlockwiseWeight;
use crate::error::LoraError;
use crate::linear::{BaseWeight, QLoraLinear};
use crate::model::LoraModel;
use low_rank::LowRank;

/// What [`loftq_init`] or [`loftq_rounds`] found: how far the weights are from what they were, and how far they are with their adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoftqReport {
    weights: f64,
    before: f64,
    after: f64,
}

impl LoftqReport {
    /// Returns what is lost of the adapted layers' weights without and with the adapters: the norm of the error over that of
    /// the weights, both over all layers (Frobenius).
    pub fn relative_errors(&self) -> [f64; 2] {
        [self.before, self.after].map(|error| (error / self.weights).sqrt())
    }
}

/// Sets the adapters of `model`, whose weights are quantized, to what these lost: the product of each layer's factors, with
/// its scale, is the matrix of the adapter's rank that is closest to `W - dequantize(quantize(W))`.
///
/// `dense` returns the weight W of a layer by its path and its shape `[out_features, in_features]`, row by row; one is held at a
/// time. The quantized weights stay as they are. This is Algorithm 1 with one alternation, on a base that is given, as peft's
/// `replace_lora_weights_loftq` does it; peft leaves the adapter's scale out, so that its factors are these where the scale
/// is 1. Both factors get the square roots of the singular values.
///
/// A rank beyond that of the error is left as it was: the rows of a fresh A, and zeros in B. The factors depend on weights and
/// `seed`, which draws where the search for large errors starts, and up to their last bits on the instruction set.
///
/// # Errors
/// [`LoraError::NotQuantized`] for an adapted layer on a dense weight, [`LoraError::DenseWeight`] when `dense` returns another
/// number of values or some that are not finite, [`LoraError::Device`] when the words cannot be read, [`LoraError::TooLarge`],
/// and the errors of `dense`. The layers before the one at fault have their factors then.
pub fn loftq_init<M: LoraModel, E: From<LoraError>>(
    model: &mut M,
    seed: u64,
    dense: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, E>,
) -> Result<LoftqReport, E> {
    loftq_rounds(model, NonZeroUsize::MIN, seed, dense)
}

/// Sets adapters and quantized weights of `model` by `rounds` alternations of Algorithm 1: in each, the adapters become what the
/// quantized weights lost, and before the next `W` less their product is quantized anew, in the format that the weight has. This is
/// peft's `loftq_init` with `num_iter` of `rounds`; its report is of the first round's weights, without adapters, and of the last.
///
/// After more than one round the adapters belong to these quantized weights and to no others: save both.
///
/// # Errors
/// Those of [`loftq_init`]; [`LoraError::NotQuantized`] for the blocks of a GGUF file, which are not quantized anew.
pub fn loftq_rounds<M: LoraModel, E: From<LoraError>>(
    model: &mut M,
    rounds: NonZeroUsize,
    seed: u64,
    mut dense: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, E>,
) -> Result<LoftqReport, E> {
    let mut report = LoftqReport::default();
    for (index, (path, linear)) in model.lora_linears_mut().into_iter().enumerate() {
        if linear.adapter.is_none() {
            continue;
        }
        let quantized = linear.quantized_weight(&path)?;
        let shape = linear.shape();
        let weight = checked(dense(&path, shape)?, &path, shape)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        linear.fit_adapter(&path, weight, quantized, rounds, &mut rng, &mut report)?;
    }
    Ok(report)
}

/// Returns the bytes that [`loftq_init`] needs on the host for a layer of `shape` and `rank`, beside the weight itself: what is left
/// of that once it is quantized, and the directions that are searched.
pub fn loftq_bytes(shape: [usize; 2], rank: usize) -> u64 {
    let [elements, directions] = low_rank::workspace(shape, rank);
    let f32 = size_of::<f32>() as u64;
    f32.saturating_mul(elements.max(directions))
}

impl QLoraLinear {
    /// Copies the words of the weight to the host. `path` is what the layer is called.
    fn quantized_weight(&self, path: &str) -> Result<QuantizedMatrix, LoraError> {
        let weight = self.weight.packed();
        let weight = weight.ok_or_else(|| LoraError::NotQuantized {
            layer: path.to_owned(),
        })?;
        Ok(weight.into_host()?)
    }

    /// Sets the factors of the layer's adapter to what `quantized` lost of `weight`, and adds that to `report`; with more rounds, what
    /// they quantized anew takes the place of the layer's weight.
    fn fit_adapter(
        &mut self,
        path: &str,
        weight: Vec<f32>,
        mut quantized: QuantizedMatrix,
        rounds: NonZeroUsize,
        rng: &mut ChaCha8Rng,
        report: &mut LoftqReport,
    ) -> Result<(), LoraError> {
        let (shape, device) = (self.shape(), self.device());
        let Some(branch) = &mut self.adapter else {
            return Ok(());
        };
        report.weights += squares(&weight);
        let mut first = None;
        for _ in 1..rounds.get() {
            let config = quantized.layout().config();
            let config = config.ok_or_else(|| LoraError::NotQuantized {
                layer: path.to_owned(),
            })?;
            let error = error_of(weight.clone(), &quantized);
            first.get_or_insert_with(|| squares(&error));
            let found = LowRank::closest(&error, shape, branch.rank(), rng)?;
            let rest = found.taken_from(&weight, shape);
            quantized =
                qlora_cpu::quantize(&rest, shape, config).map_err(BlockwiseTensorError::Format)?;
        }
        let error = error_of(weight, &quantized);
        let found = LowRank::closest(&error, shape, branch.rank(), rng)?;
        let before = squares(&error);
        report.before += first.unwrap_or(before);
        report.after += (before - found.squares()).max(0.0);
        branch.set_leading(&found.left, &found.right, &device)?;
        if rounds > NonZeroUsize::MIN {
            let quantized = BlockwiseTensor::upload(quantized, &device);
            self.weight = BaseWeight::Quantized(BlockwiseWeight::new(quantized));
        }
        Ok(())
    }
}

/// Returns `weight - dequantize(quantized)`.
fn error_of(mut weight: Vec<f32>, quantized: &QuantizedMatrix) -> Vec<f32> {
    let mut kept = vec![0.0; weight.len()];
    qlora_cpu::dequantize(quantized.as_ref(), &mut kept);
    for (value, kept) in weight.iter_mut().zip(kept) {
        *value -= kept;
    }
    weight
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum()
}

/// Returns the `weight` of the layer `path` if it is one of `shape`.
fn checked(weight: Vec<f32>, path: &str, shape: [usize; 2]) -> Result<Vec<f32>, LoraError> {
    let [rows, columns] = shape;
    let reason = if weight.len() != rows * columns {
        format!("has {} values, not [{rows}, {columns}]", weight.len())
    } else if let Some(value) = weight.iter().find(|value| !value.is_finite()) {
        format!("holds {value}")
    } else {
        return Ok(weight);
    };
    Err(LoraError::DenseWeight {
        layer: path.to_owned(),
        reason,
    })
}
