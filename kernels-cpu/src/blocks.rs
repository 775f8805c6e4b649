//! The blocks of files ([`nf4::gguf`]), decoded by vector instructions.
//!
//! - `codes`: what codes stand for
//! - `scales`: scales and minima
//! - `dequantize`: whole elements, one after another

pub(crate) mod codes;
mod dequantize;
pub(crate) mod scales;

pub(crate) use dequantize::{decode_range, dequantize_range};
