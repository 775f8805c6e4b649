use cubecl::prelude::*;

/// Returns `tanh(x)` within a few ulp on every runtime; NaN stays NaN.
///
/// The function of a shader language may overflow far from 0. This is Cephes' `tanhf`: an odd polynomial around 0, and
/// further out `1 − 2e / (1 + e)` with `e = exp(−2|x|)`, which cannot.
#[cube]
pub(super) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let near = min(magnitude, f32::new(1.0));
    let square = near * near;
    let p = f32::new(-5.704_988_7e-3) * square + 2.063_909e-2;
    let p = p * square - 5.373_971_6e-2;
    let p = p * square + 1.333_144_2e-1;
    let p = p * square - 3.333_328e-1;
    let near = near * square * p + near;

    let e = (magnitude * f32::new(-2.0)).exp();
    let far = 1.0 - 2.0 * e / (1.0 + e);
    let tanh = select(magnitude < 0.625, near, far);
    select(x < 0.0, -tanh, tanh)
}
