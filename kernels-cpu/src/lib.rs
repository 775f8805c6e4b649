//! CPU kernels of QLoRA training: quantizing, decoding, products that read the packed weights directly, and what lies
//! between them in a decoder. Knows the format ([`nf4`]), not Burn.
//!
//! - [`quantize`], [`dequantize`]: to the 4-bit formats, and back from all block formats
//! - [`matmul`], [`matmul_vec`], [`low_rank`]: products with a quantized matrix; [`dense`]: with a dense one
//! - [`Shortlist`], [`Estimates`]: the rows of a dense matrix that may have the largest product
//! - [`rms_norm`], [`glu`], [`rope`], [`attention`], [`cross_entropy`]: the operations between the products
//! - [`adamw`]: the optimizer's update
//! - [`convert`]: from one [`Element`] type to another
//!
//! A module's `saved_bytes` says what is kept for its backward pass, its `workspace_bytes` what it needs while it runs beside
//! the scratch of its products.
//!
//! ```
//! use nf4::{Direction, QuantConfig};
//! use qlora_cpu::{matmul, quantize};
//!
//! // W: [out_features, in_features], row by row.
//! let w: Vec<f32> = (0..96 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let w = quantize(&w, [96, 64], QuantConfig::default())?;
//!
//! // y = x·Wᵀ for x: [2, 64], and back with the gradient of y.
//! let (x, mut y, mut dx) = ([0.5f32; 2 * 64], [0.0; 2 * 96], [0.0; 2 * 64]);
//! matmul(w.as_ref(), &x, 2, &mut y, Direction::Forward);
//! matmul(w.as_ref(), &y, 2, &mut dx, Direction::Transposed);
//! assert!(y.iter().chain(&dx).any(|v| *v != 0.0));
//! # Ok::<(), nf4::FormatError>(())
//! ```
//!
//! Quantizing and decoding give the same bits on every machine. A product gives the same bits for any number of threads,
//! but not on every instruction set: AVX-512, AVX2 with FMA, NEON and plain Rust, chosen when the program runs, sum
//! in orders of their own. [`adamw`] gives the same bits everywhere.
//!
//! [`isa`] is the instruction set in use; the environment variable [`ISA_VARIABLE`] or [`Isa::select`] forces another on the
//! process, [`Cpu`] on one operation. The products of f32 logits are the crate `gemm`'s, which chooses its own.

pub mod adamw;
pub mod attention;
mod blocks;
mod buffer;
mod codebook;
mod convert;
mod cpu;
pub mod cross_entropy;
mod dequantize;
mod double_quant;
mod element;
pub mod glu;
mod matmul;
mod pieces;
mod quantize;
pub mod rms_norm;
pub mod rope;
mod simd;
mod team;

pub use convert::convert;
pub use cpu::{Cpu, QuantizedProducts, Threads, on_worker};
pub use dequantize::{dequantize, dequantize_range, dequantize_vec};
pub use element::Element;
pub use matmul::{Estimates, Shortlist, dense, low_rank, matmul, matmul_vec};
pub use quantize::quantize;
pub use simd::{ISA_VARIABLE, Isa, IsaError, isa};

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
