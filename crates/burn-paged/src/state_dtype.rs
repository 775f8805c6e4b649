//! [`StateDtype`], how the moments of a parameter are held.

use nf4::adamw;
use serde::{Deserialize, Serialize};

/// The format of the two moments of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateDtype {
    /// f32: 8 bytes an element.
    #[default]
    F32,
    /// 8-bit codes in blocks of [`BLOCK`](Self::BLOCK) elements (bitsandbytes' 8-bit optimizers): 2.03 bytes an element.
    Dynamic8,
}

/// Elements of f32 state that stay together, so that runs begin on whole vectors.
const RUN: usize = 16;

impl StateDtype {
    /// Elements that share their two scales in [`Dynamic8`](Self::Dynamic8).
    pub const BLOCK: usize = adamw::BLOCK;

    /// Returns how the state of a parameter of `elements` elements is held where only parameters of
    /// `min_8bit_elements` and more have 8-bit state.
    pub(crate) fn of_parameter(self, elements: usize, min_8bit_elements: usize) -> Self {
        if elements >= min_8bit_elements {
            self
        } else {
            Self::F32
        }
    }

    /// Returns the elements of the smallest piece that a page holds.
    pub(crate) const fn granule(self) -> usize {
        match self {
            Self::F32 => RUN,
            Self::Dynamic8 => adamw::BLOCK,
        }
    }

    /// Returns the bytes of that piece: both moments, and the scales of a block.
    pub(crate) const fn granule_bytes(self) -> usize {
        match self {
            Self::F32 => 8 * RUN,
            Self::Dynamic8 => adamw::BLOCK_BYTES,
        }
    }

    /// Returns the bytes of the state of `elements` elements.
    pub const fn bytes(self, elements: usize) -> usize {
        elements
            .div_ceil(self.granule())
            .saturating_mul(self.granule_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_cost_little_more_than_two_bytes() {
        let elements = 4096 * 64;
        let bytes = StateDtype::Dynamic8.bytes(elements) as f64;
        assert!(bytes / elements as f64 <= 2.04);
    }
}
