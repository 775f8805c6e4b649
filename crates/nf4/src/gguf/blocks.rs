//! The bytes of a block of each format (ggml's `block_q4_0` and so on).

use super::GgufFormat;
use crate::format::SUPERBLOCK;

/// Factors of a superblock: of 16 scales, or of 8 scales and 8 minima.
pub(super) const FACTORS: usize = 16;

/// A block, taken apart.
pub(super) struct Block {
    /// The codes in order; those of 4 bits have nothing above them.
    pub(super) codes: [u8; SUPERBLOCK],
    /// The scale and the minimum to add, in f16, or the exponent of the scale.
    pub(super) scales: [u32; 2],
    /// The factors of the blocks of a superblock.
    pub(super) factors: [u8; FACTORS],
}

impl Block {
    /// Reads a block, which is as long as the format has it.
    pub(super) fn read(format: GgufFormat, bytes: &[u8]) -> Self {
        let mut block = Self {
            codes: [0; SUPERBLOCK],
            scales: [0; 2],
            factors: [0; FACTORS],
        };
        match format {
            GgufFormat::Q4_0 | GgufFormat::IQ4_NL => {
                block.scales[0] = half(bytes, 0);
                block.nibbles(&bytes[2..]);
            }
            GgufFormat::Q4_1 => {
                block.scales = [half(bytes, 0), half(bytes, 2)];
                block.nibbles(&bytes[4..]);
            }
            GgufFormat::Q5_0 => {
                block.scales[0] = half(bytes, 0);
                block.nibbles(&bytes[6..]);
                block.fifth_bits(&bytes[2..6]);
            }
            GgufFormat::Q5_1 => {
                block.scales = [half(bytes, 0), half(bytes, 2)];
                block.nibbles(&bytes[8..]);
                block.fifth_bits(&bytes[4..8]);
            }
            GgufFormat::Q8_0 => {
                block.scales[0] = half(bytes, 0);
                for (code, byte) in block.codes.iter_mut().zip(&bytes[2..]) {
                    *code = byte ^ 0x80;
                }
            }
            GgufFormat::Q4_K => {
                block.super_scales(bytes);
                block.super_nibbles(&bytes[16..]);
            }
            GgufFormat::Q5_K => {
                block.super_scales(bytes);
                block.super_nibbles(&bytes[48..]);
                let high = &bytes[16..48];
                for (i, code) in block.codes.iter_mut().enumerate() {
                    *code |= (high[i % 32] >> (i / 32) & 1) << 4;
                }
            }
            GgufFormat::Q6_K => block.six_bits(bytes),
            GgufFormat::MXFP4 => {
                block.scales[0] = u32::from(bytes[0]);
                block.nibbles(&bytes[1..]);
            }
        }
        block
    }

    /// Reads 32 codes of 4 bits: the first 16 are the low halves of the bytes.
    fn nibbles(&mut self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            self.codes[i] = byte & 15;
            self.codes[16 + i] = byte >> 4;
        }
    }

    /// Adds the fifth bits of 32 codes.
    fn fifth_bits(&mut self, bytes: &[u8]) {
        for (i, code) in self.codes[..32].iter_mut().enumerate() {
            *code |= (bytes[i / 8] >> (i % 8) & 1) << 4;
        }
    }

    /// Reads the codes of a superblock, 4 bits of each: of 64 the first 32 are the low halves of 32 bytes.
    fn super_nibbles(&mut self, bytes: &[u8]) {
        let codes = self.codes.chunks_exact_mut(64);
        for (codes, bytes) in codes.zip(bytes.chunks_exact(32)) {
            for (i, byte) in bytes.iter().enumerate() {
                codes[i] = byte & 15;
                codes[32 + i] = byte >> 4;
            }
        }
    }

    /// Reads scale and minimum of a superblock and the factors of its eight blocks, 6 bits each. The file's minimum is
    /// subtracted.
    fn super_scales(&mut self, bytes: &[u8]) {
        self.scales = [half(bytes, 0), half(bytes, 2) ^ 0x8000];
        let packed = &bytes[4..16];
        for i in 0..4 {
            let [scale, minimum, both] = [packed[i], packed[4 + i], packed[8 + i]];
            self.factors[i] = scale & 63;
            self.factors[4 + i] = both & 15 | scale >> 6 << 4;
            self.factors[8 + i] = minimum & 63;
            self.factors[12 + i] = both >> 4 | minimum >> 6 << 4;
        }
    }

    /// Reads Q6_K: of every 128 codes the low halves of 64 bytes, their high halves, and two more bits each of 32 bytes.
    fn six_bits(&mut self, bytes: &[u8]) {
        let (low, rest) = bytes.split_at(128);
        let (high, rest) = rest.split_at(64);
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (half, within) = (i / 128, i % 128);
            let low = low[64 * half + within % 64] >> (4 * (within / 64)) & 15;
            let high = high[32 * half + within % 32] >> (2 * (within / 32)) & 3;
            *code = low | high << 4;
        }
        self.factors.copy_from_slice(&rest[..FACTORS]);
        self.scales[0] = half(rest, FACTORS);
    }
}

/// Returns the bits of the f16 at `at`.
fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}
