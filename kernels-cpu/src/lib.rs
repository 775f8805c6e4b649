//! CPU kernels of QLoRA training: quantizing, decoding, and products that read the packed weights directly. Knows the
//! format ([`nf4`]), not Burn.
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
//! # Ok::<(), nf4::Nf4Error>(())
//! ```
//!
//! Quantizing and decoding give the same bits on every machine. A product gives the same bits for any number of threads,
//! but not on every instruction set: AVX-512, AVX2 with FMA, NEON and plain Rust, chosen when the program runs, sum
//! in orders of their own ([`Isa`] forces one).

mod dequantize;
mod double_quant;
mod element;
mod matmul;
mod quantize;
mod simd;

pub use dequantize::{dequantize, dequantize_on};
pub use element::Element;
pub use matmul::{Threads, dense, low_rank, matmul, matmul_on, matmul_vec};
pub use quantize::{quantize, quantize_on};
pub use simd::Isa;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
