//! The settings of a root-mean-square norm, the same for the kernels of all devices.

/// How rows are normalized by their root mean square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormConfig {
    /// Added to the mean square.
    pub eps: f64,
    /// Whether the factor is `1 + weight`, in f32 (f64 for f64), and not `weight` (Gemma).
    pub unit_offset: bool,
}

impl RmsNormConfig {
    /// Returns a norm whose factor is the weight.
    pub const fn new(eps: f64) -> Self {
        Self {
            eps,
            unit_offset: false,
        }
    }

    /// Sets whether the factor is `1 + weight`.
    pub const fn with_unit_offset(mut self, unit_offset: bool) -> Self {
        self.unit_offset = unit_offset;
        self
    }
}
