//! AdamW on state that lies in pages: one pass over parameter, gradient and both moments.
//!
//! - [`mod@f32`](self::f32): f32 moments.
//! - [`dynamic8`]: moments in blocks of 8-bit codes.
//!
//! A page is one buffer of words that holds runs of several parameters; a launch updates one run. Every element, or
//! block, is worked out by itself, so how the runs are cut changes no bits.

pub mod dynamic8;
pub mod f32;

use cubecl::prelude::*;

/// The factors of one update, worked out on the host:
///
/// ```text
/// m ← m + rate_1 · (g − m)
/// v ← v · beta_2 + rate_2 · g · g
/// p ← p · decay − step_size · m / (√v / correction_2 + epsilon)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// `1 − β₁`.
    pub rate_1: f32,
    /// `β₂`.
    pub beta_2: f32,
    /// `1 − β₂`.
    pub rate_2: f32,
    /// `√(1 − β₂ᵗ)`.
    pub correction_2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// `1 − lr · λ`.
    pub decay: f32,
    /// `lr / (1 − β₁ᵗ)`.
    pub step_size: f32,
}

/// One run of a parameter in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Elements of the whole parameter, which is what its buffers hold.
    pub parameter: usize,
    /// The run's first element in them.
    pub first: usize,
    /// Elements of the run.
    pub elements: usize,
    /// Words of the page.
    pub page_words: usize,
    /// Where the run begins in it, in words.
    pub offset: usize,
    /// Where it ends.
    pub end: usize,
}

/// [`Factors`] as kernels take them.
#[derive(CubeLaunch, CubeType)]
struct KernelFactors {
    rate_1: f32,
    beta_2: f32,
    rate_2: f32,
    correction_2: f32,
    epsilon: f32,
    decay: f32,
    step_size: f32,
}

/// What the update makes of a parameter, by its new moments.
#[cube]
fn updated(param: f32, m: f32, v: f32, factors: &KernelFactors) -> f32 {
    let root = v.sqrt() / factors.correction_2 + factors.epsilon;
    param * factors.decay - factors.step_size * m / root
}

fn launch_arg(factors: Factors) -> KernelFactorsLaunch {
    KernelFactorsLaunch::new(
        factors.rate_1,
        factors.beta_2,
        factors.rate_2,
        factors.correction_2,
        factors.epsilon,
        factors.decay,
        factors.step_size,
    )
}
