//! The block formats of llama.cpp, exact as a GGUF file has them.
//!
//! A file's blocks hold codes and scales together. For kernels they are taken apart into the words that
//! [`Layout`] describes, without loss: codes of 5 and 6 bits become 8, factors of 6 bits become 8, nothing is rounded.
//!
//! - `blocks`: the bytes of a block of each format

mod blocks;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::format::{BlockFormat, Codes, SUPERBLOCK, Scales, exponent_value};
use crate::layout::Layout;
use crate::matrix::QuantizedMatrix;
use blocks::{Block, FACTORS};

/// A block format of GGUF files, by llama.cpp's name.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GgufFormat {
    /// 4 bits, symmetric, blocks of 32.
    Q4_0,
    /// 4 bits with minima, blocks of 32.
    Q4_1,
    /// 5 bits, symmetric, blocks of 32.
    Q5_0,
    /// 5 bits with minima, blocks of 32.
    Q5_1,
    /// 8 bits, symmetric, blocks of 32.
    Q8_0,
    /// 4 bits with minima, eight blocks of 32 in a superblock.
    Q4_K,
    /// 5 bits with minima, eight blocks of 32 in a superblock.
    Q5_K,
    /// 6 bits, symmetric, sixteen blocks of 16 in a superblock.
    Q6_K,
    /// 4 bits of a table that is denser about zero, blocks of 32.
    IQ4_NL,
    /// 4-bit floats, E2M1, with powers of two as scales, blocks of 32 (OCP microscaling).
    MXFP4,
}

const CENTRED: [f32; 16] = [
    -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
];
const COUNTING: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];
const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// E2M1, doubled.
const MXFP4: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

impl GgufFormat {
    /// All formats.
    pub const ALL: [GgufFormat; 10] = [
        GgufFormat::Q4_0,
        GgufFormat::Q4_1,
        GgufFormat::Q5_0,
        GgufFormat::Q5_1,
        GgufFormat::Q8_0,
        GgufFormat::Q4_K,
        GgufFormat::Q5_K,
        GgufFormat::Q6_K,
        GgufFormat::IQ4_NL,
        GgufFormat::MXFP4,
    ];

    /// Returns llama.cpp's name.
    pub const fn name(self) -> &'static str {
        match self {
            GgufFormat::Q4_0 => "Q4_0",
            GgufFormat::Q4_1 => "Q4_1",
            GgufFormat::Q5_0 => "Q5_0",
            GgufFormat::Q5_1 => "Q5_1",
            GgufFormat::Q8_0 => "Q8_0",
            GgufFormat::Q4_K => "Q4_K",
            GgufFormat::Q5_K => "Q5_K",
            GgufFormat::Q6_K => "Q6_K",
            GgufFormat::IQ4_NL => "IQ4_NL",
            GgufFormat::MXFP4 => "MXFP4",
        }
    }

    /// Returns what the words of a matrix mean.
    pub const fn blocks(self) -> BlockFormat {
        let (codes, block_size, scales) = match self {
            GgufFormat::Q4_0 => (Codes::Table(&CENTRED), 32, Scales::F16),
            GgufFormat::Q4_1 => (Codes::Table(&COUNTING), 32, Scales::F16WithMinimum),
            GgufFormat::Q5_0 => (Codes::Bytes { zero: 16 }, 32, Scales::F16),
            GgufFormat::Q5_1 => (Codes::Bytes { zero: 0 }, 32, Scales::F16WithMinimum),
            GgufFormat::Q8_0 => (Codes::Bytes { zero: 128 }, 32, Scales::F16),
            GgufFormat::Q4_K => (Codes::Table(&COUNTING), 32, Scales::NestedWithMinimum),
            GgufFormat::Q5_K => (Codes::Bytes { zero: 0 }, 32, Scales::NestedWithMinimum),
            GgufFormat::Q6_K => (Codes::Bytes { zero: 32 }, 16, Scales::Nested),
            GgufFormat::IQ4_NL => (Codes::Table(&IQ4_NL), 32, Scales::F16),
            GgufFormat::MXFP4 => (Codes::Table(&MXFP4), 32, Scales::Exponent),
        };
        BlockFormat {
            codes,
            block_size,
            scales,
        }
    }

    /// Returns the elements of a block of a file; rows are whole numbers of these.
    pub const fn file_block(self) -> usize {
        match self {
            GgufFormat::Q4_K | GgufFormat::Q5_K | GgufFormat::Q6_K => SUPERBLOCK,
            _ => 32,
        }
    }

    /// Returns the bytes of a block of a file.
    pub const fn file_block_bytes(self) -> usize {
        match self {
            GgufFormat::Q4_0 | GgufFormat::IQ4_NL => 18,
            GgufFormat::Q4_1 => 20,
            GgufFormat::Q5_0 => 22,
            GgufFormat::Q5_1 => 24,
            GgufFormat::Q8_0 => 34,
            GgufFormat::Q4_K => 144,
            GgufFormat::Q5_K => 176,
            GgufFormat::Q6_K => 210,
            GgufFormat::MXFP4 => 17,
        }
    }
}

impl fmt::Display for GgufFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Takes the blocks of a file's tensor apart into words. Row `row` of the file becomes row `target(row)`, so that rows that a
/// file has in another order move whole.
///
/// # Errors
/// What [`Layout::new`] refuses; [`FormatError::BlockBytes`] if `bytes` is not exactly the matrix, and
/// [`FormatError::ScaleNotFinite`] for a scale or minimum that is infinite or not a number, or so large that its values would be.
///
/// # Panics
/// If `target` gives no row of the matrix.
pub fn read(
    format: GgufFormat,
    shape: [usize; 2],
    bytes: &[u8],
    target: impl Fn(usize) -> usize,
) -> Result<QuantizedMatrix, FormatError> {
    let layout = Layout::new(shape, format)?;
    let per_row = shape[1] / format.file_block();
    let expected = shape[0] * per_row * format.file_block_bytes();
    if bytes.len() != expected {
        return Err(FormatError::BlockBytes {
            format,
            shape,
            found: bytes.len(),
            expected,
        });
    }
    let mut words = Words {
        format,
        packed: vec![0; layout.packed_words()],
        absmax: vec![0; layout.absmax_words()],
    };
    for (index, bytes) in bytes.chunks_exact(format.file_block_bytes()).enumerate() {
        let (row, within) = (index / per_row, index % per_row);
        let place = target(row) * per_row + within;
        if !words.put(place, &Block::read(format, bytes)) {
            return Err(FormatError::ScaleNotFinite {
                format,
                row,
                block: within,
            });
        }
    }
    QuantizedMatrix::from_parts(layout, words.packed, words.absmax)
}

/// The words of a matrix that is being read.
struct Words {
    format: GgufFormat,
    packed: Vec<u32>,
    absmax: Vec<u32>,
}

impl Words {
    /// Puts a file's block to its place among them; returns whether all its values are finite.
    fn put(&mut self, place: usize, block: &Block) -> bool {
        let BlockFormat {
            codes,
            block_size,
            scales,
        } = self.format.blocks();
        let (per_word, bits) = (codes.per_word(), codes.bits());
        let len = self.format.file_block();
        let words = &mut self.packed[place * len / per_word..][..len / per_word];
        for (word, codes) in words.iter_mut().zip(block.codes.chunks_exact(per_word)) {
            let codes = codes.iter().rev();
            *word = codes.fold(0, |word, code| word << bits | u32::from(*code));
        }
        let [scale, minimum] = block.scales;
        let pair = scale | minimum << 16;
        let is_finite = |half: u32| half & 0x7c00 != 0x7c00;
        match scales {
            Scales::F16 => self.absmax[place / 2] |= scale << (16 * (place % 2)),
            Scales::F16WithMinimum => self.absmax[place] = pair,
            Scales::Exponent => {
                self.absmax[place / 4] |= scale << (8 * (place % 4));
                return (exponent_value(scale) * MXFP4[7]).is_finite();
            }
            Scales::Nested | Scales::NestedWithMinimum => {
                let len = scales.superblock_words(block_size);
                let words = &mut self.absmax[place * len..][..len];
                words[0] = pair;
                let (factors, _) = block.factors.as_chunks::<4>();
                for (word, factors) in words[1..].iter_mut().zip(factors) {
                    *word = u32::from_le_bytes(*factors);
                }
            }
            Scales::F32 | Scales::DoubleQuantized => {
                unreachable!("no format of GGUF files has such scales")
            }
        }
        is_finite(scale) && is_finite(minimum)
    }
}

const _: () = assert!(FACTORS == SUPERBLOCK / 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use qlora_test_support::Recording;

    const SHAPE: [usize; 2] = [3, 512];

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_recorded_block_decodes_bit_for_bit() {
        let file = Recording::open("gguf_blocks.safetensors");
        for format in GgufFormat::ALL {
            let blocks = file.bytes(&format!("{format}/blocks"));
            let expected = bits(&file.f32(&format!("{format}/values")));
            let matrix = read(format, SHAPE, blocks, |row| row).unwrap();
            assert_eq!(
                bits(&reference::dequantize(matrix.as_ref())),
                expected,
                "{format}"
            );
            let turned = read(format, SHAPE, blocks, |row| 2 - row).unwrap();
            let decoded = bits(&reference::dequantize(turned.as_ref()));
            let turned: Vec<_> = decoded.chunks(512).rev().flatten().copied().collect();
            assert_eq!(turned, expected, "{format} in another order of rows");
        }
    }

    #[test]
    fn bytes_that_are_no_such_matrix_are_refused() {
        let file = Recording::open("gguf_blocks.safetensors");
        for format in GgufFormat::ALL {
            let blocks = file.bytes(&format!("{format}/blocks"));
            let read = |blocks: &[u8]| read(format, SHAPE, blocks, |row| row);
            let short = read(&blocks[1..]).unwrap_err();
            assert!(
                matches!(short, FormatError::BlockBytes { .. }),
                "{format}: {short}"
            );
            // The last block of the first row.
            let block = 512 / format.file_block() - 1;
            let at = block * format.file_block_bytes();
            let mut damaged = blocks.to_vec();
            match format {
                GgufFormat::MXFP4 => damaged[at] = 253,
                GgufFormat::Q6_K => damaged[at + 208..at + 210].copy_from_slice(&[0, 0x7c]),
                _ => damaged[at..at + 2].copy_from_slice(&[1, 0xfe]),
            }
            let row = 0;
            let expected = FormatError::ScaleNotFinite { format, row, block };
            assert_eq!(read(&damaged), Err(expected));
        }
    }
}
