//! 4-bit NormalFloat block quantization, bit-compatible with bitsandbytes, and products that read the packed weights
//! directly.
//!
//! A weight matrix is cut into blocks of 64 elements; each element becomes one of 16 values relative to its
//! block's largest magnitude, and those magnitudes are themselves quantized to 8 bits: 4.127 bits per weight (QLoRA §3).
//! [`quantize`] and [`dequantize`] go there and back, [`matmul`] multiplies in both directions without ever holding a
//! dense matrix, and [`bitsandbytes`] reads and writes the tensors that transformers stores.
//!
//! ```
//! use nf4::{Direction, QuantConfig, matmul, quantize};
//!
//! // W: [out_features, in_features], row by row.
//! let w: Vec<f32> = (0..96 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let w = quantize(&w, [96, 64], QuantConfig::default())?;
//!
//! // y = x·Wᵀ for x: [2, 64], and back with the gradient of y.
//! let (x, mut y, mut dx) = ([0.5f32; 2 * 64], [0.0; 2 * 96], [0.0; 2 * 64]);
//! matmul(w.as_ref(), &x, 2, &mut y, Direction::Forward);
//! matmul(w.as_ref(), &y, 2, &mut dx, Direction::Transposed);
//! # assert!(y.iter().chain(&dx).any(|v| *v != 0.0));
//!
//! // As the tensors of a checkpoint that transformers + bitsandbytes loads.
//! let tensors = nf4::bitsandbytes::write("model.layers.0.mlp.up_proj.weight", &w, "float32")?;
//! assert_eq!(tensors.len(), 6);
//! # Ok::<(), nf4::Nf4Error>(())
//! ```
//!
//! Quantizing and decoding give the same bits on every machine. A product gives the same bits for any number of threads,
//! but not on every instruction set: AVX-512, AVX2 with FMA, NEON and plain Rust, chosen when the program runs, sum
//! in orders of their own ([`Isa`] forces one).

pub mod bitsandbytes;
mod codebook;
mod config;
mod dequantize;
mod double_quant;
mod dynamic_map;
mod element;
mod error;
mod layout;
mod matmul;
mod matrix;
mod quantize;
mod simd;

pub use codebook::Codebook;
pub use config::QuantConfig;
pub use dequantize::{dequantize, dequantize_on};
pub use double_quant::mean;
pub use dynamic_map::{dynamic_map, dynamic_map_unsigned};
pub use element::Element;
pub use error::Nf4Error;
pub use layout::{Layout, NESTED_BLOCK, NESTED_MAP};
pub use matmul::{Direction, Threads, dense, low_rank, matmul, matmul_on, matmul_vec};
pub use matrix::{MatrixRef, QuantizedMatrix};
pub use quantize::{quantize, quantize_on};
pub use simd::Isa;
