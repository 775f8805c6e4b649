//! Fused training operations for Burn: what lies between the linear layers of a LLaMA, in one pass
//! over memory each and with no more kept for the backward pass than it needs.
//!
//! The functions at the root are what a model calls, on any backend, with or without autodiff;
//! no backend is enabled but Flex unless a feature says so.
//!
//! | function | kept for the backward pass |
//! | --- | --- |
//! | [`rms_norm`] | `x`, one number a row |
//! | [`add_rms_norm`], [`residual_rms_norm`] | the sum, one number a row |
//! | [`swiglu`] | `gate`, `up` |
//! | [`rope`] | nothing but the tables of angles |
//! | [`causal_attention`], [`packed_causal_attention`] | `q`, `k`, `v`, the output, one number a row; never the scores |
//! | [`linear_cross_entropy`] | the gradients it computes in the forward pass; never the logits |

mod attention_shape;
/// One implementation of [`FusedOps`] a backend.
mod backends;
/// The default bodies of [`FusedOps`].
mod composed;
/// What a model calls.
mod functions;
/// The extension trait.
mod ops;

pub use functions::*;
pub use ops::{AttentionMask, FusedOps};

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
