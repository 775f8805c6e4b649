//! The activations of gated feed-forward layers, the same for the kernels of all devices.

use serde::{Deserialize, Serialize};

/// The activation of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activation {
    /// `x · sigmoid(x)` (LLaMA).
    Silu,
    /// The tanh form of GELU, `0.5x · (1 + tanh(sqrt(2/π) · (x + 0.044715x³)))` (Gemma).
    GeluTanh,
}

/// The slope of [`Activation::GeluTanh`]'s sigmoid at 0, `2 · sqrt(2/π)`.
pub const GELU_SLOPE: f64 = core::f64::consts::FRAC_2_SQRT_PI * core::f64::consts::SQRT_2;

/// The factor of the cube in [`Activation::GeluTanh`].
pub const GELU_CUBIC: f64 = 0.044715;
