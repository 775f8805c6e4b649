//! How far parameters can be from 0, so that none leaves f32 unseen.

use super::config::TrainConfig;
use super::optimizer_kind::OptimizerKind;
use crate::error::FinetuneError;
use crate::evaluate::read;
use burn::tensor::Tensor;
use burn_qlora::LoraModel;

/// A bound on the magnitude of every trainable parameter.
///
/// An update is bounded whatever the gradients are, so that it is known before it is made that all parameters
/// stay finite, and no step has to read them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reach {
    most: f64,
    /// A bound on an update at a learning rate of 1, of an optimizer for which it depends on the factors' shapes.
    update: f64,
}

impl Reach {
    /// Returns that of the adapters and the rows of tokens of `model` as they are.
    ///
    /// # Errors
    /// [`FinetuneError::Device`].
    pub fn of<M: LoraModel>(model: &M, optimizer: OptimizerKind) -> Result<Self, FinetuneError> {
        let branches = model.lora_adapters().into_iter();
        let factors = branches.flat_map(|(_, branch)| [&branch.lora.a, &branch.lora.b]);
        let rows = model.token_rows().into_iter();
        let factors = factors.chain(rows.map(|(_, rows)| &rows.rows));
        let factors: Vec<Tensor<2>> = factors.map(|factor| factor.val()).collect();
        let update = factors
            .iter()
            .map(|factor| largest_update(optimizer, factor.dims()));
        let update = update.fold(0.0, f64::max);
        let largest = factors.into_iter();
        let largest: Vec<Tensor<1>> = largest
            .map(|factor| factor.without_autodiff().abs().max())
            .collect();
        let largest = read("largest parameters", Tensor::cat(largest, 0))?;
        Ok(Self {
            most: largest.into_iter().fold(0.0, f64::max),
            update,
        })
    }

    /// Returns that after an update at learning rate `lr` by gradients of the global norm `norm`.
    pub fn after(self, config: &TrainConfig, lr: f64, norm: f64) -> Self {
        let decayed = |lr: f64| (1.0 - lr * config.weight_decay).abs();
        let [a, b] = config.rates(lr);
        let update = match config.optimizer {
            OptimizerKind::AdamW | OptimizerKind::AdamW8bit => largest_ratio(config, norm),
            OptimizerKind::Lion | OptimizerKind::Muon | OptimizerKind::Adafactor => self.update,
        };
        Self {
            most: self.most * decayed(a).max(decayed(b)) + a.max(b) * update,
            update: self.update,
        }
    }

    /// Returns whether f32 holds all that is within it, with room for what is rounded on the way.
    pub fn is_finite(self) -> bool {
        self.most < f64::from(f32::MAX) / 4.0
    }
}

/// Returns a bound on the update of a factor of this shape at a learning rate of 1, where it does not depend on the gradients.
///
/// Lion takes a sign. The polynomial of Muon takes singular values of at most 1 to at most 1.21, and no element is beyond the
/// largest of them. Adafactor scales the mean of the squares to at most 1.
fn largest_update(optimizer: OptimizerKind, [rows, columns]: [usize; 2]) -> f64 {
    match optimizer {
        OptimizerKind::AdamW | OptimizerKind::AdamW8bit => 0.0,
        OptimizerKind::Lion => 1.0,
        OptimizerKind::Muon => 1.21 * (rows as f64 / columns as f64).max(1.0).sqrt(),
        OptimizerKind::Adafactor => (rows as f64 * columns as f64).sqrt(),
    }
}

/// Returns a bound on AdamW's first moment over the root of the second, both without their bias.
///
/// The two are weighted sums of the gradients and of their squares, so Cauchy and Schwarz bound the ratio by the weights
/// alone, if those of the first fall fast enough. In 8 bits the second moment may have been rounded to 0: then epsilon is
/// what is left below, and above about the norm of the gradients.
fn largest_ratio(config: &TrainConfig, norm: f64) -> f64 {
    let decay = config.beta_1 * config.beta_1 / config.beta_2;
    match config.optimizer {
        OptimizerKind::AdamW if decay < 1.0 => 1.0 / ((1.0 - config.beta_2) * (1.0 - decay)).sqrt(),
        _ => norm.max(1.0) / config.epsilon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(config: &TrainConfig, lr: f64, steps: usize) -> Reach {
        let start = Reach {
            most: 0.1,
            update: largest_update(config.optimizer, [4096, 16]),
        };
        (0..steps).fold(start, |reach, _| reach.after(config, lr, 1.0))
    }

    #[test]
    fn ordinary_runs_never_meet_it_and_absurd_rates_do_at_once() {
        for optimizer in [
            OptimizerKind::AdamW,
            OptimizerKind::AdamW8bit,
            OptimizerKind::Lion,
            OptimizerKind::Muon,
            OptimizerKind::Adafactor,
        ] {
            let config = TrainConfig {
                optimizer,
                lora_plus_ratio: 16.0,
                weight_decay: 0.1,
                ..TrainConfig::default()
            };
            assert!(after(&config, 1e-2, 10_000).is_finite());
            assert!(!after(&config, 1e39, 1).is_finite());
        }
        assert!(after(&TrainConfig::default(), 1e30, 1).is_finite());
    }

    /// The largest updates that gradients can bring about, growing every step as Cauchy and Schwarz have
    /// it where they are equal.
    #[test]
    fn no_update_is_larger() {
        let config = TrainConfig::default();
        let (mut first, mut second, mut largest) = (0.0, 0.0, 0.0f64);
        for step in 1..200 {
            let gradient = (config.beta_1 / config.beta_2).powi(-step);
            first = config.beta_1 * first + (1.0 - config.beta_1) * gradient;
            second = config.beta_2 * second + (1.0 - config.beta_2) * gradient * gradient;
            let unbiased = |moment: f64, beta: f64| moment / (1.0 - beta.powi(step));
            let ratio = unbiased(first, config.beta_1) / unbiased(second, config.beta_2).sqrt();
            largest = largest.max(ratio);
        }
        assert!(largest > 1.0, "{largest}");
        assert!(largest < largest_ratio(&config, 1.0), "{largest}");
    }
}
