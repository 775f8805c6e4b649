use burn_core::tensor::{DType, Tensor};

/// The function from the products of the head to the logits before the softmax, `z = softcap(scale · hidden · weightᵀ)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitsConfig {
    /// The factor of the products; Granite's `1 / logits_scaling`.
    pub scale: f64,
    /// Bound `c` of the scaled products, which become `c · tanh(z / c)`; Gemma 2's `final_logit_softcapping`.
    pub softcap: Option<f64>,
}

impl Default for LogitsConfig {
    /// Returns logits that are the products.
    fn default() -> Self {
        Self {
            scale: 1.0,
            softcap: None,
        }
    }
}

impl LogitsConfig {
    /// Sets the factor of the products.
    pub const fn with_scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Sets the bound of the logits.
    pub const fn with_softcap(mut self, softcap: Option<f64>) -> Self {
        self.softcap = softcap;
        self
    }

    /// Returns the logits of the products of the head, of any shape, composed of Burn's operations: what
    /// [`crate::linear_cross_entropy`] has the loss of.
    ///
    /// f16 and bf16 are computed in f32; the result has the dtype of `products`.
    ///
    /// # Panics
    /// When the scale is no number, or the bound is no number above 0.
    pub fn apply<const D: usize>(self, products: Tensor<D>) -> Tensor<D> {
        self.check("LogitsConfig::apply");
        if self == Self::default() {
            return products;
        }
        let dtype = products.dtype();
        let products = match dtype {
            DType::F16 | DType::BF16 => products.cast(DType::F32),
            _ => products,
        };
        let logits = match self.softcap {
            Some(cap) => products.mul_scalar(self.scale / cap).tanh().mul_scalar(cap),
            None => products.mul_scalar(self.scale),
        };
        logits.cast(dtype)
    }

    /// Refuses what makes no logits.
    ///
    /// # Panics
    /// When the scale is no number, or the bound is no number above 0.
    pub(crate) fn check(self, operation: &str) {
        let Self { scale, softcap } = self;
        assert!(
            scale.is_finite(),
            "{operation}: the scale of the logits must be a finite number, not {scale}"
        );
        if let Some(cap) = softcap {
            assert!(
                cap.is_finite() && cap > 0.0,
                "{operation}: the soft cap of the logits must be a finite number above 0, not {cap}"
            );
        }
    }
}
