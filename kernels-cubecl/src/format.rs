//! What kernels are compiled for of a weight's format.

use nf4::{BlockFormat, Codes, Scales};

/// 2^23 as bits: the last bits of its fraction count ones, so that a byte among them is added to it.
pub(crate) const FRACTION: u32 = 0x4b00_0000;

/// The codes of a weight and what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CodeFormat {
    meaning: Meaning,
    has_minima: bool,
}

/// What a code stands for, before its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Meaning {
    /// An index of 4 bits into f32 bit patterns.
    Table([u32; 16]),
    /// 8 bits: an unsigned number, less `zero`.
    Bytes { zero: u8 },
}

impl From<BlockFormat> for CodeFormat {
    fn from(format: BlockFormat) -> Self {
        // Kernels read a power of two as four times its value, which is never subnormal.
        let unit = match format.scales {
            Scales::Exponent => 0.25,
            _ => 1.0,
        };
        Self {
            meaning: match format.codes {
                Codes::Table(values) => {
                    Meaning::Table(values.map(|value| f32::to_bits(value * unit)))
                }
                Codes::Bytes { zero } => Meaning::Bytes { zero },
            },
            has_minima: format.scales.has_minima(),
        }
    }
}

impl CodeFormat {
    /// Returns the codes of a word, the first in the lowest bits.
    pub(crate) const fn per_word(self) -> usize {
        match self.meaning {
            Meaning::Table(_) => 8,
            Meaning::Bytes { .. } => 4,
        }
    }

    /// Returns the bits of a code.
    pub(crate) const fn bits(self) -> usize {
        32 / self.per_word()
    }

    /// Returns log2 of the codes of a word.
    pub(crate) const fn word_shift(self) -> u32 {
        self.per_word().trailing_zeros()
    }

    /// Returns whether codes are looked up in a table.
    pub(crate) const fn has_table(self) -> bool {
        matches!(self.meaning, Meaning::Table(_))
    }

    /// Returns the value of a code of 4 bits.
    pub(crate) fn value(self, code: usize) -> f32 {
        match self.meaning {
            Meaning::Table(values) => f32::from_bits(values[code]),
            Meaning::Bytes { .. } => unreachable!("codes of 8 bits have no table"),
        }
    }

    /// Returns the code of 8 bits that stands for 0.
    pub(crate) fn zero(self) -> f32 {
        match self.meaning {
            Meaning::Table(_) => unreachable!("codes of 4 bits have a table"),
            Meaning::Bytes { zero } => f32::from(zero),
        }
    }

    /// Returns whether a block has a minimum, which is added to each of its elements.
    pub(crate) const fn has_minima(self) -> bool {
        self.has_minima
    }
}
