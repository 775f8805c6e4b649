//! The numbers of one AdamW update.

use crate::PagedError;

/// AdamW's settings, in f64 as torch has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub beta_1: f64,
    pub beta_2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Settings {
    pub fn validate(&self) -> Result<(), PagedError> {
        let refuse = |field, value: f64, expected| {
            Err(PagedError::Config {
                field,
                value: value.to_string(),
                expected,
            })
        };
        for (field, value) in [("beta 1", self.beta_1), ("beta 2", self.beta_2)] {
            if !(0.0..1.0).contains(&value) {
                return refuse(field, value, "in [0, 1)");
            }
        }
        for (field, value) in [
            ("epsilon", self.epsilon),
            ("weight decay", self.weight_decay),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(field, value, "a finite number, 0 or above");
            }
        }
        Ok(())
    }

    /// The factors of step `step`, counted from 1.
    pub fn at(&self, step: usize, lr: f64) -> Rule {
        let step = step as f64;
        Rule {
            rate_1: (1.0 - self.beta_1) as f32,
            beta_2: self.beta_2 as f32,
            rate_2: (1.0 - self.beta_2) as f32,
            correction_2: (1.0 - self.beta_2.powf(step)).sqrt() as f32,
            epsilon: self.epsilon as f32,
            decay: (1.0 - lr * self.weight_decay) as f32,
            step_size: (lr / (1.0 - self.beta_1.powf(step))) as f32,
        }
    }
}

/// The factors of one update (`torch.optim.AdamW`, single tensor), worked out in f64 and rounded once:
///
/// ```text
/// m ← m + rate_1 · (g − m)
/// v ← v · beta_2 + rate_2 · g · g
/// p ← p · decay − step_size · m / (√v / correction_2 + epsilon)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// `1 − β₁`.
    pub rate_1: f32,
    /// `β₂`.
    pub beta_2: f32,
    /// `1 − β₂`.
    pub rate_2: f32,
    /// `√(1 − β₂ᵗ)`.
    pub correction_2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// `1 − lr · λ`.
    pub decay: f32,
    /// `lr / (1 − β₁ᵗ)`.
    pub step_size: f32,
}
