//! How a matrix is to be quantized.

use serde::{Deserialize, Serialize};

use crate::codebook::Codebook;
use crate::error::Nf4Error;

/// The choices of the format; the default is QLoRA's: NF4, blocks of 64, double quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantConfig {
    /// What the 16 codes stand for.
    pub codebook: Codebook,
    /// How many consecutive elements of the flattened matrix share one scale: a power of two from 32 to 4096.
    pub block_size: usize,
    /// Whether the scales are themselves quantized to 8 bits (QLoRA §3).
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
    /// Smallest block size.
    pub const MIN_BLOCK_SIZE: usize = 32;
    /// Largest block size.
    pub const MAX_BLOCK_SIZE: usize = 4096;

    /// Checks the block size.
    ///
    /// # Errors
    /// [`Nf4Error::BlockSize`] unless it is a power of two from 32 to 4096.
    pub fn validate(&self) -> Result<(), Nf4Error> {
        let range = Self::MIN_BLOCK_SIZE..=Self::MAX_BLOCK_SIZE;
        if self.block_size.is_power_of_two() && range.contains(&self.block_size) {
            Ok(())
        } else {
            Err(Nf4Error::BlockSize {
                block_size: self.block_size,
            })
        }
    }
}
