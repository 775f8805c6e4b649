//! AdamW on state that lies in pages: one pass over parameter, gradient and both moments.
//!
//! - [`update_f32`]: f32 moments.
//! - [`update_dynamic8`]: moments in blocks of 8-bit codes, whose maps [`dynamic_maps`] uploads.
//!
//! A page is one buffer of words that holds runs of several parameters; a launch updates one run. Every element, or
//! block, is worked out by itself, so how the runs are cut changes no bits.

mod dynamic8;
mod f32;

pub use dynamic8::{dynamic_maps, update_dynamic8};
pub use f32::update_f32;

use cubecl::prelude::*;
use nf4::adamw::AdamWStep;

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
    /// The run's first word in the page.
    pub offset: usize,
    /// The word after its last.
    pub end: usize,
}

/// [`AdamWStep`] as kernels take it.
#[derive(CubeLaunch, CubeType)]
struct Step {
    rate_1: f32,
    beta_2: f32,
    rate_2: f32,
    correction_2: f32,
    epsilon: f32,
    decay: f32,
    step_size: f32,
}

/// Returns the parameter after the update, by its new moments.
#[cube]
fn updated(param: f32, m: f32, v: f32, step: &Step) -> f32 {
    let root = v.sqrt() / step.correction_2 + step.epsilon;
    param * step.decay - step.step_size * m / root
}

fn launch_arg(step: AdamWStep) -> StepLaunch {
    StepLaunch::new(
        step.rate_1,
        step.beta_2,
        step.rate_2,
        step.correction_2,
        step.epsilon,
        step.decay,
        step.step_size,
    )
}
