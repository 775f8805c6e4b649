//! NF4 tensors for Burn: weights that stay in four bits, or in the blocks of a GGUF file, while a model computes with them.
//!
//! [`BlockwiseTensor`] is what a module holds: a `[out_features, in_features]` matrix as packed `u32`
//! words on a device. Its [`matmul`](BlockwiseTensor::matmul) reads those words directly, forward and
//! backward, so that the dense matrix never exists. The format itself lives in [`nf4`]; the
//! CubeCL kernels in `qlora-cubecl`.
//!
//! - `tensor`: [`BlockwiseTensor`], the type that users hold
//! - `layer`: [`BlockwiseLayer`], a matrix and what adapts it
//! - `ops`: [`BlockwiseOps`], the backend extension behind them
//! - `primitive`: matrices and layers as a backend sees them
//! - `backends`: an implementation for each backend, and the gradients
//! - `reference`: default bodies, for backends without a kernel of their own
//! - `words`: words between host and device
//! - `memory`: [`lora_saved_bytes`] and its siblings, the memory of a LoRA layer
//! - `error`: everything that is refused, [`BlockwiseTensorError`]
//!
//! No execution backend is enabled by default: select `flex`, `wgpu`, `cuda` or another backend feature *of this crate*;
//! enabling it on `burn` alone does not bring the kernels in, and what is asked of such a device is refused by an error that
//! names the feature.

// `NdArray` and `LibTorch` are deprecated upstream, and served as long as they are there.
#![cfg_attr(any(feature = "ndarray", feature = "tch"), allow(deprecated))]

mod backends;
mod error;
mod layer;
mod memory;
// Without a backend, the dispatch that is generated for the trait uses none of its arguments.
#[allow(unused_variables)]
mod ops;
mod primitive;
mod reference;
mod tensor;
mod words;

#[cfg(feature = "router")]
pub use backends::router::register_blockwise_ops;
pub use burn_operands::UnservedDevice;
pub use error::BlockwiseTensorError;
pub use layer::{BlockwiseLayer, fuses_layers};
pub use memory::{lora_backward_workspace_bytes, lora_saved_bytes};
pub use nf4::{self, Codebook, Format, GgufFormat, Layout, QuantConfig, QuantizedMatrix};
pub use ops::BlockwiseOps;
pub use primitive::{BlockwisePrimitive, GradientsPrimitive, LayerPrimitive, LayersPrimitive};
pub use tensor::BlockwiseTensor;

/// Compiles and runs the example of the package's README.
#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;
