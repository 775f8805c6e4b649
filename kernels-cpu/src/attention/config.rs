use super::shape::AttentionShape;

/// What attention makes of the products of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// The factor of the products.
    pub scale: f32,
    /// Keys that a query sees, itself included, at least 1; `None` for all up to its own.
    pub window: Option<usize>,
    /// Bound `c` of the scores, which become `c · tanh(score / c)`; positive.
    pub softcap: Option<f32>,
}

impl Config {
    /// Returns attention with the factor `scale`, to all keys up to the query's own and without a bound.
    pub const fn new(scale: f32) -> Self {
        Self {
            scale,
            window: None,
            softcap: None,
        }
    }

    /// Returns the window where it hides keys.
    pub(super) fn window(&self, shape: &AttentionShape) -> Option<usize> {
        self.window.filter(|window| *window < shape.kv_len)
    }
}
