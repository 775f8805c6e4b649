//! What becomes of the product of a query and a key before the softmax.

use cubecl::prelude::*;

use crate::fused::tanh::tanh;

/// The factor of the products and their soft cap, if they have one.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Scores {
    pub(super) scale: f32,
    softcap: ComptimeOption<f32>,
}

#[cube]
impl Scores {
    /// Returns what the products that [`Self::score`] takes are to be multiplied by.
    pub(super) fn factor(&self) -> f32 {
        #[comptime]
        match self.softcap {
            ComptimeOption::Some(cap) => self.scale / cap,
            ComptimeOption::None => self.scale,
        }
    }

    /// Returns the score of a product times [`Self::factor`].
    pub(super) fn score(&self, product: f32) -> f32 {
        #[comptime]
        match self.softcap {
            ComptimeOption::Some(cap) => cap * tanh(product),
            ComptimeOption::None => product,
        }
    }

    /// Returns the gradient of the product times the scale from that of its score, by `d/dx c·tanh(x/c) = 1 − tanh²(x/c)`.
    pub(super) fn through(&self, grad: f32, score: f32) -> f32 {
        #[comptime]
        match self.softcap {
            ComptimeOption::Some(cap) => {
                let tanh = score / cap;
                grad * (f32::new(1.0) - tanh * tanh)
            }
            ComptimeOption::None => grad,
        }
    }
}
