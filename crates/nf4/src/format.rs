//! What the words of a matrix mean: one description for every block format.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::QuantConfig;
use crate::gguf::GgufFormat;

/// Elements of a superblock, whose blocks have scales that are quantized together.
pub const SUPERBLOCK: usize = 256;

/// The format of a matrix, by where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Format {
    /// Quantized by this crate's rules, or by bitsandbytes.
    Quantized(QuantConfig),
    /// Blocks of a GGUF file.
    Gguf(GgufFormat),
}

/// A block format as kernels see it: an element is `scale · value(code)`, rounded to f32, plus the minimum of its block, if
/// the format has minima.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockFormat {
    /// The codes of the elements.
    pub codes: Codes,
    /// Consecutive elements that share a scale, and a minimum: a power of two from 16 on.
    pub block_size: usize,
    /// The scales and minima.
    pub scales: Scales,
}

/// What an element's code stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Codes {
    /// 4 bits: an index into a table.
    Table(&'static [f32; 16]),
    /// 8 bits: an unsigned number, less `zero`.
    Bytes {
        /// The code that stands for 0.
        zero: u8,
    },
}

/// How scales and minima lie in the words, all numbers f32 or f16 bit patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scales {
    /// A scale a block, f32.
    F32,
    /// 8-bit codes of a map, with nested scales and an offset: QLoRA's double quantization.
    DoubleQuantized,
    /// A scale a block, f16, two a word, the earlier in the low half.
    F16,
    /// A scale and a minimum a block, both f16, the scale in the low half of a word.
    F16WithMinimum,
    /// A power of two a block, four a word: code `c` is the scale `2^(c - 128)`.
    Exponent,
    /// For each superblock a word with its f16 scale, and then the factors of its blocks, signed, four a word.
    Nested,
    /// For each superblock a word with its f16 scale and, in the high half, its minimum; then the factors of its blocks'
    /// scales, unsigned, four a word, and those of their minima.
    NestedWithMinimum,
}

impl Format {
    /// Returns what the words mean.
    pub const fn blocks(self) -> BlockFormat {
        match self {
            Format::Quantized(config) => BlockFormat {
                codes: Codes::Table(config.codebook.values()),
                block_size: config.block_size,
                scales: if config.double_quant {
                    Scales::DoubleQuantized
                } else {
                    Scales::F32
                },
            },
            Format::Gguf(format) => format.blocks(),
        }
    }
}

impl From<QuantConfig> for Format {
    fn from(config: QuantConfig) -> Self {
        Format::Quantized(config)
    }
}

impl From<GgufFormat> for Format {
    fn from(format: GgufFormat) -> Self {
        Format::Gguf(format)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Quantized(config) => {
                write!(f, "{} in blocks of {}", config.codebook, config.block_size)
            }
            Format::Gguf(format) => format.fmt(f),
        }
    }
}

impl Codes {
    /// Returns the codes in a word, the first in the lowest bits.
    pub const fn per_word(self) -> usize {
        match self {
            Codes::Table(_) => 8,
            Codes::Bytes { .. } => 4,
        }
    }

    /// Returns the bits of a code.
    pub const fn bits(self) -> usize {
        32 / self.per_word()
    }

    /// Returns the value of a code; bits above the code's own are ignored.
    pub fn value(self, code: u32) -> f32 {
        match self {
            Codes::Table(values) => values[(code & 15) as usize],
            Codes::Bytes { zero } => (code & 255) as f32 - f32::from(zero),
        }
    }
}

impl Scales {
    /// Returns whether blocks have minima.
    pub const fn has_minima(self) -> bool {
        matches!(self, Scales::F16WithMinimum | Scales::NestedWithMinimum)
    }

    /// Returns the words of a superblock of blocks of `block_size`; 0 where there is one level of scales.
    pub const fn superblock_words(self, block_size: usize) -> usize {
        match self {
            Scales::Nested => 1 + SUPERBLOCK / block_size / 4,
            Scales::NestedWithMinimum => 1 + SUPERBLOCK / block_size / 2,
            _ => 0,
        }
    }
}

/// Returns the number that an f16 bit pattern stands for; infinities and NaNs are taken for finite numbers. Without a branch,
/// so that loops over it vectorise.
#[inline(always)]
pub const fn f16_value(bits: u32) -> f32 {
    // The exponents of f16 are 112 less than those of f32; the product is exact, for subnormal numbers too.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

/// Returns `2^(exponent - 128)`; below 2, a subnormal number. Without a branch.
#[inline(always)]
pub const fn exponent_value(exponent: u32) -> f32 {
    // 2^(e - 128) is 2^(e - 127) halved; e = 0 would be the bit pattern of zero.
    let half = f32::from_bits(0x3f00_0000);
    let normal = f32::from_bits(exponent << 23) * half;
    let is_zero = (exponent == 0) as u32;
    f32::from_bits(normal.to_bits() | is_zero << 21)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_is_widened_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0xfbff, -65504.0f32),
        ] {
            assert_eq!(f16_value(bits).to_bits(), f32::to_bits(value), "{bits:x}");
        }
    }

    #[test]
    fn exponents_are_powers_of_two() {
        for exponent in 0..255 {
            let expected = 2f64.powi(exponent as i32 - 128) as f32;
            assert_eq!(exponent_value(exponent), expected, "{exponent}");
        }
    }

    #[test]
    fn formats_are_written_as_before_and_by_name() {
        let quantized = Format::from(QuantConfig::default());
        let json = r#"{"codebook":"nf4","block_size":64,"double_quant":true}"#;
        assert_eq!(serde_json::to_string(&quantized).unwrap(), json);
        assert_eq!(serde_json::from_str::<Format>(json).unwrap(), quantized);
        let gguf = Format::from(GgufFormat::Q4_K);
        assert_eq!(serde_json::to_string(&gguf).unwrap(), r#""Q4_K""#);
        assert_eq!(serde_json::from_str::<Format>(r#""Q4_K""#).unwrap(), gguf);
    }
}
