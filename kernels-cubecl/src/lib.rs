//! CubeCL kernels of QLoRA training: products with NF4 weights, what stands between them, and paged optimizer state. Knows
//! cubecl, not Burn.
//!
//! A weight is two buffers of `u32` words ([`Weight`]); every kernel reads those words directly and
//! nothing here ever forms the dense matrix unless [`dequantize()`] is asked for it. All launches
//! are asynchronous: nothing waits for the device and nothing is read back.
//!
//! - [`mod@format`]: what the words mean, and the handles that hold them.
//! - [`mod@quantize`]: weights to words, with the bits of the host implementation.
//! - [`mod@dequantize`]: words to a dense matrix.
//! - [`mod@matmul`]: `x · Wᵀ` and `x · W`, and the choice between the kernels for it.
//! - [`fused`]: norms, activations, rotations and losses, in one pass each.
//! - [`adamw`]: updates of parameters whose optimizer state lies in pages.
//! - [`mod@error`]: what is refused, and why.

mod decode;
mod launch;
mod rounding;

pub mod adamw;
pub mod dequantize;
pub mod error;
pub mod format;
pub mod fused;
pub mod matmul;
pub mod quantize;

pub use dequantize::dequantize;
pub use error::KernelError;
pub use format::{CodeTable, Format, Weight};
pub use matmul::{Direction, Rows, matmul};
pub use quantize::quantize;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
