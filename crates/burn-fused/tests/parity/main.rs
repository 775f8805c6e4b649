//! Every operation against the same computation composed of Burn's tensor operations and
//! differentiated by Burn's autodiff, on every device the features enable.

#![cfg(all(
    feature = "autodiff",
    any(feature = "flex", feature = "wgpu", feature = "cpu")
))]

mod add_rms_norm;
mod attention;
mod common;
mod cross_entropy;
mod precision;
mod reproducible;
mod rms_norm;
mod rope;
mod swiglu;
