//! The block formats of QLoRA: codebooks, word layout, matrices, bitsandbytes' checkpoints and the blocks of GGUF files. No
//! SIMD, no Burn.
//!
//! A weight matrix is cut into blocks of 64 elements; each element becomes one of 16 values relative to its
//! block's largest magnitude, and those magnitudes are themselves quantized to 8 bits: 4.127 bits per weight (QLoRA §3).
//! [`BlockFormat`] describes such a format and [`Layout`] says where in the words everything lies, [`bitsandbytes`] reads and
//! writes the tensors that transformers stores, [`gguf`] reads the blocks of llama.cpp's files, and [`mod@reference`] quantizes, decodes and multiplies by plain loops, which the kernels are held to.
//! [`adamw`] is the same for the optimizer: the constants of an update, the blocks of its 8-bit moments, and the update
//! by plain loops. [`attention`], [`glu`] and [`rms_norm`] are the sizes and settings of operations for which every device has
//! kernels.
//!
//! ```
//! use nf4::{Direction, QuantConfig, reference};
//!
//! // W: [out_features, in_features], row by row.
//! let w: Vec<f32> = (0..96 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let w = reference::quantize(&w, [96, 64], QuantConfig::default())?;
//!
//! // y = x·Wᵀ for x: [2, 64].
//! let y = reference::matmul(w.as_ref(), &[0.5; 2 * 64], Direction::Forward);
//! assert_eq!(y.len(), 2 * 96);
//!
//! // As the tensors of a checkpoint that transformers + bitsandbytes loads.
//! let tensors = nf4::bitsandbytes::write("model.layers.0.mlp.up_proj.weight", &w, "float32")?;
//! assert_eq!(tensors.len(), 6);
//! # Ok::<(), nf4::FormatError>(())
//! ```

pub mod adamw;
pub mod attention;
pub mod bitsandbytes;
mod codebook;
mod config;
mod direction;
mod double_quant;
mod dynamic_map;
mod error;
mod format;
pub mod gguf;
pub mod glu;
mod layout;
mod matrix;
pub mod reference;
pub mod rms_norm;

pub use codebook::{Codebook, UnknownCodebook};
pub use config::QuantConfig;
pub use direction::Direction;
pub use double_quant::mean;
pub use dynamic_map::{dynamic_map, dynamic_map_unsigned, midpoints};
pub use error::FormatError;
pub use format::{BlockFormat, Codes, Format, SUPERBLOCK, Scales, exponent_value, f16_value};
pub use gguf::GgufFormat;
pub use layout::{Layout, NESTED_BLOCK, NESTED_MAP};
pub use matrix::{MatrixRef, QuantizedMatrix};

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
