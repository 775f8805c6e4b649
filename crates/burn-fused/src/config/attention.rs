use nf4::attention::Config;

/// The scale, window and bound of attention's scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// The factor of the products, `1 / sqrt(head_dim)` in most models.
    pub scale: f64,
    /// Keys that a query sees, itself included: the query at position `i` sees the positions `i - window < j <= i`.
    /// `None` for all of them.
    pub window: Option<usize>,
    /// Bound `c` of the scores, which become `c · tanh(score / c)` before the mask and the softmax (Gemma 2).
    pub softcap: Option<f64>,
}

impl AttentionConfig {
    /// Returns attention with the factor `scale`, to all earlier keys and without a bound.
    pub const fn new(scale: f64) -> Self {
        Self {
            scale,
            window: None,
            softcap: None,
        }
    }

    /// Sets the number of keys that a query sees.
    pub const fn with_window(mut self, window: Option<usize>) -> Self {
        self.window = window;
        self
    }

    /// Sets the bound of the scores.
    pub const fn with_softcap(mut self, softcap: Option<f64>) -> Self {
        self.softcap = softcap;
        self
    }
}

impl From<AttentionConfig> for Config {
    fn from(config: AttentionConfig) -> Self {
        Self {
            scale: config.scale as f32,
            window: config.window,
            softcap: config.softcap.map(|cap| cap as f32),
        }
    }
}
