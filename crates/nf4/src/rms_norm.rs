//! The settings of a root-mean-square norm, the same for the kernels of all devices.

/// The settings of a norm of rows by their root mean square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Added to the mean square.
    pub eps: f32,
    /// Whether the factor is `1 + weight`, in f32, and not `weight` (Gemma).
    pub unit_offset: bool,
}
