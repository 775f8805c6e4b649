use crate::simd::math::tanh;
use crate::simd::{Isa, kernel};

/// The function from the products `hidden · weightᵀ` to logits: `scale · product`, and of that `c · tanh(z / c)` with a soft cap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Logits {
    pub scale: f32,
    pub softcap: Option<f32>,
}

impl Logits {
    /// Turns products into logits; does nothing where they are the same.
    pub fn apply(self, isa: Isa, products: &mut [f32]) {
        match self.softcap {
            None if self.scale == 1.0 => {}
            None => scaled(isa, products, self.scale),
            Some(cap) => capped(isa, products, self.scale / cap, cap),
        }
    }

    /// Returns the derivative of a logit by its product.
    pub fn slope(self, logit: f32) -> f32 {
        let capped = self.softcap.map_or(1.0, |cap| cap_slope(logit, 1.0 / cap));
        self.scale * capped
    }
}

/// Returns the derivative of the soft cap `c` where its value is `capped`, `1 − (capped / c)²`, from `1 / c`.
#[inline(always)]
pub(super) fn cap_slope(capped: f32, inverse: f32) -> f32 {
    let tanh = capped * inverse;
    1.0 - tanh * tanh
}

kernel! {
    fn scaled<S: Simd>(products: &mut [f32], scale: f32) {
        for product in products {
            *product *= scale;
        }
    }

    fn capped<S: Simd>(products: &mut [f32], scale: f32, cap: f32) {
        for product in products {
            *product = cap * tanh::<S>(*product * scale);
        }
    }
}
