//! 4-bit NormalFloat block quantization, bit-compatible with bitsandbytes.

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
pub use dynamic_map::dynamic_map;
pub use element::Element;
pub use error::Nf4Error;
pub use layout::{Layout, NESTED_BLOCK, NESTED_MAP};
pub use matmul::{Direction, matmul, matmul_on};
pub use matrix::{MatrixRef, QuantizedMatrix};
pub use quantize::{quantize, quantize_on};
pub use simd::Isa;
