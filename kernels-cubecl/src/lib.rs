//! CubeCL kernels of QLoRA training: products with quantized weights, what stands between them, and paged optimizer state. Knows
//! cubecl, not Burn.
//!
//! A weight is two buffers of `u32` words ([`Weight`]) in one of the formats of [`nf4`]; every kernel reads those words directly and
//! nothing here ever forms the dense matrix unless [`dequantize`] is asked for it. Operands are CubeCL's own
//! [`TensorHandle`](cubecl::std::tensor::TensorHandle)s. All launches are asynchronous: nothing waits for the device and
//! nothing is read back.
//!
//! - [`mod@quantize`]: weights to words, with the bits of the host implementation.
//! - [`mod@dequantize`]: words to a dense matrix.
//! - [`mod@matmul`]: `x · Wᵀ` and `x · W`, and the choice between the kernels for it.
//! - [`fused`]: norms, activations, rotations and losses, in one pass each.
//! - [`adamw`]: updates of parameters whose optimizer state lies in pages.

mod decode;
mod error;
mod format;
mod launch;
mod operand;
mod rounding;
mod scales;
mod scattered;
mod weight;

pub mod adamw;
pub mod dequantize;
pub mod fused;
pub mod matmul;
pub mod quantize;

pub use error::{KernelError, check_float};
pub use weight::Weight;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
