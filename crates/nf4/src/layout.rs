//! The place of every part of a quantized matrix in its two word arrays.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::config::QuantConfig;
use crate::error::FormatError;
use crate::format::{BlockFormat, Format, SUPERBLOCK, Scales};

/// Scales that share one nested scale under double quantization.
pub const NESTED_BLOCK: usize = 256;
/// Entries of the map of 8-bit codes of double quantization.
pub const NESTED_MAP: usize = 256;

/// The shape and format of a quantized matrix, and the sizes that follow from them.
///
/// The matrix is `[out_features, in_features]`, row-major and *flattened*: blocks are consecutive runs of
/// the flattened elements, so that a block may straddle rows, and the last one may be short.
///
/// `packed` holds the codes, of 4 bits 8 a word: element `i` in bits `4 * (i % 8)..` of word `i / 8`, and of 8 bits 4 a word in
/// the same way; codes beyond the last element are 0. `absmax` holds, without double quantization, one f32 bit pattern a
/// block. With it, one after another: the 8-bit codes of the blocks, 4 a word, low byte first; the nested scales; the
/// offset; the 256 values of the 8-bit codes (all but the codes being f32 bit patterns). For the formats of GGUF files it
/// holds what [`Scales`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "LayoutFields", into = "LayoutFields")]
pub struct Layout {
    shape: [usize; 2],
    format: Format,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutFields {
    shape: [usize; 2],
    config: Format,
}

impl TryFrom<LayoutFields> for Layout {
    type Error = FormatError;

    fn try_from(fields: LayoutFields) -> Result<Self, FormatError> {
        Layout::new(fields.shape, fields.config)
    }
}

impl From<Layout> for LayoutFields {
    fn from(layout: Layout) -> Self {
        LayoutFields {
            shape: layout.shape,
            config: layout.format,
        }
    }
}

impl Layout {
    /// Returns the layout of a matrix of `shape` = `[out_features, in_features]`; either may be 0.
    ///
    /// # Errors
    /// [`FormatError::BlockSize`]; [`FormatError::RowBlocks`] if rows are not whole blocks of a GGUF file's format; and
    /// [`FormatError::TooLarge`] if the matrix decoded to f32 could not be addressed.
    pub fn new(shape: [usize; 2], format: impl Into<Format>) -> Result<Self, FormatError> {
        let format = format.into();
        match format {
            Format::Quantized(config) => config.validate()?,
            Format::Gguf(format) if !shape[1].is_multiple_of(format.file_block()) => {
                return Err(FormatError::RowBlocks { format, shape });
            }
            Format::Gguf(_) => {}
        }
        let bytes = shape[0]
            .checked_mul(shape[1])
            .and_then(|elements| elements.checked_mul(4));
        // Half the address space leaves room for the 1 KiB of the code map in every later sum.
        if bytes.is_none_or(|bytes| bytes > isize::MAX as usize / 2) {
            return Err(FormatError::TooLarge { shape });
        }
        Ok(Self { shape, format })
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub const fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns the number of rows.
    pub const fn out_features(&self) -> usize {
        self.shape[0]
    }

    /// Returns the number of columns.
    pub const fn in_features(&self) -> usize {
        self.shape[1]
    }

    /// Returns the format.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Returns what the words mean.
    pub const fn block_format(&self) -> BlockFormat {
        self.format.blocks()
    }

    /// Returns the codebook, the block size and whether scales are quantized too; `None` of a GGUF file's format.
    pub const fn config(&self) -> Option<QuantConfig> {
        match self.format {
            Format::Quantized(config) => Some(config),
            Format::Gguf(_) => None,
        }
    }

    /// Returns whether the scales are quantized as bitsandbytes does.
    const fn double_quant(&self) -> bool {
        matches!(self.format, Format::Quantized(config) if config.double_quant)
    }

    /// Returns the number of elements.
    pub const fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Returns the number of blocks, each with a scale; the last may be short.
    pub const fn blocks(&self) -> usize {
        self.elements().div_ceil(self.block_format().block_size)
    }

    /// Returns the number of groups of [`NESTED_BLOCK`] scales, each with a nested scale; 0 without double quantization.
    pub const fn nested_blocks(&self) -> usize {
        if self.double_quant() {
            self.blocks().div_ceil(NESTED_BLOCK)
        } else {
            0
        }
    }

    /// Returns the length of `packed`.
    pub const fn packed_words(&self) -> usize {
        self.elements()
            .div_ceil(self.block_format().codes.per_word())
    }

    /// Returns the length of `absmax`.
    pub const fn absmax_words(&self) -> usize {
        if self.double_quant() {
            self.map_words().end
        } else {
            self.scale_words().end
        }
    }

    /// Returns the section of `absmax` that holds the scales, with minima and factors, or, with double quantization, their 8-bit
    /// codes.
    pub const fn scale_words(&self) -> Range<usize> {
        let (blocks, format) = (self.blocks(), self.block_format());
        0..match format.scales {
            Scales::F32 | Scales::F16WithMinimum => blocks,
            Scales::DoubleQuantized | Scales::Exponent => blocks.div_ceil(4),
            Scales::F16 => blocks.div_ceil(2),
            Scales::Nested | Scales::NestedWithMinimum => {
                let superblocks = self.elements() / SUPERBLOCK;
                superblocks * format.scales.superblock_words(format.block_size)
            }
        }
    }

    /// Returns the section of `absmax` that holds the nested scales; empty without double quantization.
    pub const fn nested_words(&self) -> Range<usize> {
        let start = self.scale_words().end;
        start..start + self.nested_blocks()
    }

    /// Returns the position of the offset in `absmax`; meaningful under double quantization only.
    pub const fn offset_word(&self) -> usize {
        self.nested_words().end
    }

    /// Returns the section of `absmax` that holds the values of the 8-bit codes; meaningful under double quantization only.
    pub const fn map_words(&self) -> Range<usize> {
        let start = self.offset_word() + 1;
        start..start + NESTED_MAP
    }

    /// Returns the largest magnitude that an element may have. Its reciprocal is no subnormal number, which GPUs take for 0;
    /// under double quantization the sum of as many scales, of which their offset is made, and their differences from it
    /// are in f32 too.
    pub fn largest_magnitude(&self) -> f32 {
        let reciprocal = 1.0 / f32::MIN_POSITIVE;
        if self.double_quant() {
            (f32::MAX / 2.0 / self.blocks().max(1) as f32).min(reciprocal)
        } else {
            reciprocal
        }
    }

    /// Checks the largest magnitude of the elements.
    ///
    /// # Errors
    /// [`FormatError::Magnitude`] if it is above [`largest_magnitude`](Self::largest_magnitude).
    pub fn check_magnitude(&self, largest: f32) -> Result<(), FormatError> {
        let limit = self.largest_magnitude();
        if largest > limit {
            return Err(FormatError::Magnitude { largest, limit });
        }
        Ok(())
    }

    /// Returns the bytes of both word arrays.
    pub const fn bytes(&self) -> usize {
        4 * (self.packed_words() + self.absmax_words())
    }

    /// Returns the bits per weight, everything included: 4.127 for a large matrix of the default format.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.elements() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufFormat;

    #[test]
    fn sections_follow_one_another() {
        let layout = Layout::new([300, 177], QuantConfig::default()).unwrap();
        assert_eq!(layout.blocks(), 830);
        assert_eq!(layout.scale_words(), 0..208);
        assert_eq!(layout.nested_words(), 208..212);
        assert_eq!(layout.offset_word(), 212);
        assert_eq!(layout.map_words(), 213..469);
        assert_eq!(layout.absmax_words(), 469);
        let plain = QuantConfig {
            double_quant: false,
            ..QuantConfig::default()
        };
        assert_eq!(Layout::new([300, 177], plain).unwrap().absmax_words(), 830);
    }

    #[test]
    fn a_large_matrix_takes_4_127_bits_per_weight() {
        let layout = Layout::new([8192, 8192], QuantConfig::default()).unwrap();
        assert!((layout.bits_per_weight() - 4.127).abs() < 5e-4);
    }

    #[test]
    fn formats_of_files_take_little_more_than_in_the_file() {
        for (format, bits) in [
            (GgufFormat::Q4_0, 4.5),
            (GgufFormat::Q4_1, 5.0),
            (GgufFormat::Q5_0, 8.5),
            (GgufFormat::Q5_1, 9.0),
            (GgufFormat::Q8_0, 8.5),
            (GgufFormat::Q4_K, 4.625),
            (GgufFormat::Q5_K, 8.625),
            (GgufFormat::Q6_K, 8.625),
            (GgufFormat::IQ4_NL, 4.5),
            (GgufFormat::MXFP4, 4.25),
        ] {
            let layout = Layout::new([4, 512], format).unwrap();
            assert_eq!(layout.bits_per_weight(), bits, "{format}");
            let shape = [4, 80];
            let error = Layout::new(shape, format);
            assert_eq!(error, Err(FormatError::RowBlocks { format, shape }));
        }
    }

    #[test]
    fn impossible_layouts_are_refused() {
        for block_size in [0, 16, 48, 63, 8192] {
            let config = QuantConfig {
                block_size,
                ..QuantConfig::default()
            };
            assert_eq!(
                Layout::new([2, 2], config),
                Err(FormatError::BlockSize { block_size })
            );
        }
        for shape in [[usize::MAX, 2], [usize::MAX, usize::MAX], [1 << 62, 1]] {
            let error = Layout::new(shape, QuantConfig::default());
            assert_eq!(error, Err(FormatError::TooLarge { shape }));
        }
    }

    #[test]
    fn serde_checks_what_it_reads() {
        let layout = Layout::new([3, 5], QuantConfig::default()).unwrap();
        let json = serde_json::to_string(&layout).unwrap();
        assert_eq!(serde_json::from_str::<Layout>(&json).unwrap(), layout);
        assert!(serde_json::from_str::<Layout>(&json.replace("64", "65")).is_err());
    }
}
