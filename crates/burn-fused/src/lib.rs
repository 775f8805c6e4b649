//! Fused training operations for Burn: what lies between the linear layers of a decoder, in one pass
//! over memory each and with no more kept for the backward pass than it needs.
//!
//! A model calls the functions at the root, on any backend whose feature of this crate is on (none is by default), with or without
//! autodiff. On another device they panic, naming the feature; [`check_device`] asks before.
//!
//! | function | kept for the backward pass |
//! | --- | --- |
//! | [`matmul`], [`linear`] | the operands, each if the other is tracked |
//! | [`rms_norm`] | `x`, one number a row |
//! | [`add_rms_norm`], [`residual_rms_norm`] | the sum, one number a row |
//! | [`glu`], [`swiglu`], [`geglu`] | `gate`, `up` |
//! | [`rope`] | nothing but the tables of angles |
//! | [`causal_attention`], [`packed_causal_attention`] | `q`, `k`, `v`, the output, one number a row; never the scores |
//! | [`cached_attention`] | for generation: as its parts |
//! | [`linear_cross_entropy`] | the gradients it computes in the forward pass; never the logits |
//! | [`token_cross_entropy`] | the same; of a tracked weight the operands |
//! | [`lora_linear_cross_entropy`], [`lora_token_cross_entropy`] | the same, with a low-rank product beside the weight's |
//!
//! - `functions`: the functions that a model calls
//! - `around`: [`Prologue`] and [`Epilogue`], the operations around linear layers
//! - `device`: [`check_device`], [`runs_cpu_kernels`], [`on_kernel_thread`]
//! - `config`: what varies between models in an operation
//! - `operands`: operands that are more than a tensor
//! - `ops`: [`FusedOps`], the backend extension behind them
//! - `backends`: an implementation for each backend, and the gradients
//! - `reference`: default bodies, for backends and dtypes without a kernel
//! - `memory`: [`Implementation`], the bytes that operations keep and need

// `NdArray` and `LibTorch` are deprecated upstream, and served as long as they are there.
#![cfg_attr(any(feature = "ndarray", feature = "tch"), allow(deprecated))]

mod around;
mod backends;
mod config;
mod device;
mod functions;
mod memory;
mod operands;
// Without a backend, the dispatch that is generated for the trait uses none of its arguments.
#[allow(unused_variables)]
mod ops;
mod reference;

pub use around::{Epilogue, EpiloguePrimitive, Prologue, ProloguePrimitive};
#[cfg(feature = "router")]
pub use backends::router::register_fused_ops;
pub use burn_operands::UnservedDevice;
pub use config::{AttentionConfig, LogitsConfig, RmsNormConfig};
pub use device::{check_device, on_kernel_thread, runs_cpu_kernels};
pub use functions::{
    Activation, IGNORED, KeyValues, RotationAngles, add_rms_norm, cached_attention,
    causal_attention, geglu, glu, linear, linear_cross_entropy, lora_linear_cross_entropy,
    lora_token_cross_entropy, matmul, packed_causal_attention, residual_rms_norm, rms_norm, rope,
    swiglu, token_cross_entropy,
};
pub use memory::{Implementation, OpMemory};
pub use nf4::attention::AttentionShape;
pub use operands::{AttentionMask, CachedTokens, Rotation};
pub use ops::FusedOps;

/// Compiles and runs the example of the package's README.
#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;
