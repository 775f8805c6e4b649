//! What becomes of the product of a query and a key before the softmax.

use cubecl::prelude::*;

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

/// Above it the hyperbolic tangent is 1 in f32, and a power of e is far from infinite.
const SATURATED: f32 = 10.0;

/// Below it [`tanh`] takes a polynomial.
const SMALL: f32 = 0.625;

/// Returns the hyperbolic tangent to 2e-7 of itself (Cephes, `tanhf`), and NaN of NaN.
///
/// That of a shader language may be infinite over infinite for large numbers, or lose the digits of small ones.
#[cube]
fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut series = f32::new(-5.704_988_7e-3);
    series = series * square + f32::new(2.063_909e-2);
    series = series * square + f32::new(-5.373_971_6e-2);
    series = series * square + f32::new(1.333_144_2e-1);
    series = series * square + f32::new(-3.333_328e-1);
    let small = series * square * x + x;

    let magnitude = x.abs();
    let bounded = select(
        magnitude > f32::new(SATURATED),
        f32::new(SATURATED),
        magnitude,
    );
    let power = (bounded + bounded).exp();
    let large = f32::new(1.0) - f32::new(2.0) / (power + f32::new(1.0));
    let large = select(x < f32::new(0.0), -large, large);
    select(magnitude < f32::new(SMALL), small, large)
}
