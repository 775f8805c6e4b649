//! Matrix products, in the vocabulary of BLIS: `C = A·B`, where A is `x: [m, k]`, B the weights `[k, n]` and C the result
//! `y: [m, n]`. A quantized B is never decoded further than a block that fits the cache.
//!
//! The right-hand matrix:
//! - `quantized`: a quantized matrix
//! - [`low_rank`]: a quantized matrix and a low-rank one on top of it
//! - [`dense`]: a matrix that is not quantized
//! - `shortlist`: the rows of a matrix that may have the largest product
//!
//! The algorithm:
//! - `gemm`: packing of A, macro-kernel and micro-kernel, for more than a few rows
//! - `gemv`: up to eight rows, whose weights are used in the registers that they are decoded in
//! - `packed_a`, `pack_b`: the layouts of the micro-kernel's operands
//! - `precision`: multiplying f32, or pairs of bf16
//! - `output`, `scratch`: memory for results, and for packed operands

mod check;
pub mod dense;
mod gemm;
mod gemv;
pub mod low_rank;
mod output;
mod pack_b;
mod packed_a;
mod precision;
mod quantized;
mod scratch;
mod shortlist;

pub use quantized::{matmul, matmul_vec};
pub use shortlist::{Estimates, Shortlist};
