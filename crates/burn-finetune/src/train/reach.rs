//! How far parameters can be from 0, so that none leaves f32 unseen.

use super::config::TrainConfig;
use crate::error::FinetuneError;
use crate::evaluate::read;
use burn::tensor::Tensor;
use burn_paged::StateDtype;
use burn_qlora::LoraModel;

/// A bound on the magnitude of every trainable parameter.
///
/// An update of AdamW is bounded whatever the gradients are, so that it is known before it is made that all parameters
/// stay finite, and no step has to read them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reach(f64);

impl Reach {
    /// Returns that of the adapters of `model` as they are.
    ///
    /// # Errors
    /// [`FinetuneError::Device`].
    pub fn of<M: LoraModel>(model: &M) -> Result<Self, FinetuneError> {
        let linears = model.lora_linears().into_iter();
        let branches = linears.filter_map(|(_, linear)| linear.adapter.as_ref());
        let largest: Vec<Tensor<1>> = branches
            .flat_map(|branch| [&branch.lora.a, &branch.lora.b])
            .map(|factor| factor.val().without_autodiff().abs().max())
            .collect();
        let largest = read("largest parameters", Tensor::cat(largest, 0))?;
        Ok(Self(largest.into_iter().fold(0.0, f64::max)))
    }

    /// Returns that after an update at learning rate `lr` by gradients of the global norm `norm`.
    pub fn after(self, config: &TrainConfig, lr: f64, norm: f64) -> Self {
        let decayed = (1.0 - lr * config.weight_decay).abs();
        Self(self.0 * decayed + lr * largest_ratio(config, norm))
    }

    /// Returns whether f32 holds all that is within it, with room for what is rounded on the way.
    pub fn is_finite(self) -> bool {
        self.0 < f64::from(f32::MAX) / 4.0
    }
}

/// Returns a bound on the first moment over the root of the second, both without their bias.
///
/// The two are weighted sums of the gradients and of their squares, so Cauchy and Schwarz bound the ratio by the weights
/// alone, if those of the first fall fast enough. In 8 bits the second moment may have been rounded to 0: then epsilon is
/// what is left below, and above about the norm of the gradients.
fn largest_ratio(config: &TrainConfig, norm: f64) -> f64 {
    let decay = config.beta_1 * config.beta_1 / config.beta_2;
    match config.state {
        StateDtype::F32 if decay < 1.0 => 1.0 / ((1.0 - config.beta_2) * (1.0 - decay)).sqrt(),
        _ => norm.max(1.0) / config.epsilon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(config: &TrainConfig, lr: f64, steps: usize) -> Reach {
        (0..steps).fold(Reach(0.1), |reach, _| reach.after(config, lr, 1.0))
    }

    #[test]
    fn ordinary_runs_never_meet_it_and_absurd_rates_do_at_once() {
        for state in [StateDtype::F32, StateDtype::Dynamic8] {
            let config = TrainConfig {
                state,
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
