//! The choices that quantizing leaves open.

use serde::{Deserialize, Serialize};

use crate::codebook::Codebook;
use crate::error::FormatError;

/// The choices of the format; the default is QLoRA's: NF4, blocks of 64, double quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantConfig {
    /// The values of the 16 codes.
    pub codebook: Codebook,
    /// Consecutive elements of the flattened matrix that share one scale: a power of two from 32 to 4096.
    pub block_size: usize,
    /// Double quantization: the scales are themselves quantized to 8 bits (QLoRA §3).
    pub double_quant: bool,
}

impl Default for QuantConfig {
    fn default() -> Self {
        Self {
            codebook: Codebook::Nf4,
            block_size: 64,
            double_quant: true,
        }
    }
}

impl QuantConfig {
    /// The smallest block size.
    pub const MIN_BLOCK_SIZE: usize = 32;
    /// The largest block size.
    pub const MAX_BLOCK_SIZE: usize = 4096;

    /// Checks the block size.
    ///
    /// # Errors
    /// [`FormatError::BlockSize`] unless it is a power of two from 32 to 4096.
    pub fn validate(&self) -> Result<(), FormatError> {
        let range = Self::MIN_BLOCK_SIZE..=Self::MAX_BLOCK_SIZE;
        if self.block_size.is_power_of_two() && range.contains(&self.block_size) {
            Ok(())
        } else {
            Err(FormatError::BlockSize {
                block_size: self.block_size,
            })
        }
    }
}
