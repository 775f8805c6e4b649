//! The tables of the 16 values that 4-bit codes stand for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A table of the 16 values of a 4-bit code, relative to the largest magnitude of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codebook {
    /// 4-bit NormalFloat: quantiles of the normal distribution (QLoRA §3).
    #[default]
    Nf4,
    /// 4-bit float E2M1 with the table of bitsandbytes, which is not sorted: bit 3 is the sign. Codes 0
    /// and 8 both stand for zero.
    Fp4,
    /// Symmetric integers: code `c` stands for `(c - 8) / 7`, so that -7..=7 fill -1..=1. Code 0 (which would be
    /// -8/7) is spare: it is never produced, but decodes by the same formula.
    Int4,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

const INT4: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = (code as f32 - 8.0) / 7.0;
        code += 1;
    }
    values
};

/// The codes by rising value. Of FP4's two zeros code 0 comes first, so that small positive values get
/// code 8, as bitsandbytes has it on CPUs.
const SORTED: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const FP4_SORTED: [u32; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

impl Codebook {
    /// All codebooks.
    pub const ALL: [Codebook; 3] = [Codebook::Nf4, Codebook::Fp4, Codebook::Int4];

    /// Returns the value of each code.
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Codebook::Nf4 => &NF4,
            Codebook::Fp4 => &FP4,
            Codebook::Int4 => &INT4,
        }
    }

    /// Returns the codes in the order of rising values: rank to code.
    pub const fn codes_by_rank(self) -> &'static [u32; 16] {
        match self {
            Codebook::Nf4 | Codebook::Int4 => &SORTED,
            Codebook::Fp4 => &FP4_SORTED,
        }
    }

    /// Returns the midpoints between values of neighbouring rank, rising. The rank of a normalised value `s` is the number of
    /// midpoints strictly below it, so that a tie takes the lower value.
    pub const fn midpoints(self) -> [f32; 15] {
        let (values, codes) = (self.values(), self.codes_by_rank());
        let mut midpoints = [0.0; 15];
        let mut rank = 0;
        while rank < 15 {
            let (low, high) = (
                values[codes[rank] as usize],
                values[codes[rank + 1] as usize],
            );
            midpoints[rank] = (low + high) / 2.0;
            rank += 1;
        }
        midpoints
    }

    /// Returns the lower-case name, as the command line, config files and bitsandbytes spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Codebook::Nf4 => "nf4",
            Codebook::Fp4 => "fp4",
            Codebook::Int4 => "int4",
        }
    }

    /// Returns the code that exact zeros are encoded to.
    pub fn zero_code(self) -> u32 {
        let below = self.midpoints().iter().filter(|m| **m < 0.0).count();
        self.codes_by_rank()[below]
    }
}

/// A codebook was asked for by a name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown codebook `{name}`; use `nf4`, `fp4` or `int4`")]
pub struct UnknownCodebook {
    /// The refused name.
    pub name: String,
}

impl fmt::Display for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Codebook {
    type Err = UnknownCodebook;

    fn from_str(name: &str) -> Result<Self, UnknownCodebook> {
        Codebook::ALL
            .into_iter()
            .find(|codebook| codebook.name() == name)
            .ok_or_else(|| UnknownCodebook {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codebook_has_a_zero_and_sorted_ranks() {
        for codebook in Codebook::ALL {
            assert_eq!(codebook.values()[codebook.zero_code() as usize], 0.0);
            let sorted = codebook
                .codes_by_rank()
                .map(|code| codebook.values()[code as usize]);
            assert!(sorted.is_sorted());
            let mut codes = *codebook.codes_by_rank();
            codes.sort();
            assert_eq!(codes, SORTED);
        }
    }

    #[test]
    fn names_parse_back_and_others_are_refused() {
        for codebook in Codebook::ALL {
            assert_eq!(codebook.to_string().parse(), Ok(codebook));
        }
        let error = "int8".parse::<Codebook>().unwrap_err();
        assert!(error.to_string().contains("`int8`"));
    }
}
