//! [`Budget`], how much of the state may stay where the update runs.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::error::PagedError;

/// The part of the optimizer state that stays resident between steps; the rest is streamed through two
/// buffers of one page each, which no budget counts.
///
/// Resident means RAM on Flex and device memory on a CubeCL device. The budget moves bytes and time,
/// never a result: every budget gives the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// All of it.
    #[default]
    Resident,
    /// At most this many bytes, in whole pages.
    Bytes(u64),
    /// At most this share of the state, from 0 to 1, in whole pages.
    Fraction(f64),
    /// All of it, until a step's peak says that the next step would not fit into the memory there is;
    /// then as much as fits. See [`PagedAdamW::prepare`](crate::PagedAdamW::prepare).
    Auto,
}

impl Budget {
    /// Checks the budget for itself.
    ///
    /// # Errors
    /// [`PagedError::Config`] for a fraction outside `[0, 1]`.
    pub(crate) fn validate(self) -> Result<(), PagedError> {
        match self {
            Self::Fraction(share) if !(0.0..=1.0).contains(&share) => Err(PagedError::Config {
                field: "budget",
                value: share.to_string(),
                expected: "a share from 0 to 1",
            }),
            _ => Ok(()),
        }
    }

    /// Returns the most that may stay of `state` bytes, in whole pages or not: all of it with [`Auto`](Self::Auto).
    pub fn most(self, state: u64) -> u64 {
        match self {
            Self::Resident | Self::Auto => state,
            Self::Bytes(limit) => limit.min(state),
            Self::Fraction(share) => ((share * state as f64) as u64).min(state),
        }
    }

    /// Returns whether a page may stay, when `resident` bytes do already and all pages up to and with this one, of
    /// `page` bytes, hold `state` bytes. `auto` is the limit that [`Auto`](Self::Auto) has come to.
    pub(crate) fn admits(self, resident: u64, page: u64, state: u64, auto: u64) -> bool {
        let after = resident.saturating_add(page);
        match self {
            Self::Resident => true,
            Self::Bytes(limit) => after <= limit,
            Self::Fraction(share) => after as f64 <= share * state as f64,
            Self::Auto => after <= auto,
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    /// Reads `resident`, `auto`, a percentage, or bytes: a whole number with an optional `kB`, `MB` or `GB` (powers of 1000)
    /// or `KiB`, `MiB` or `GiB` (powers of 1024).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refusal = || {
            format!(
                "`{text}` is no budget: give `resident`, `auto`, bytes (`0`, `512MiB`, `2GiB`) or a \
                 share (`50%`)"
            )
        };
        match text {
            "resident" => return Ok(Self::Resident),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().map_err(|_| refusal())? / 100.0;
            return if (0.0..=1.0).contains(&share) {
                Ok(Self::Fraction(share))
            } else {
                Err(refusal())
            };
        }
        parse_bytes(text).map(Self::Bytes).ok_or_else(refusal)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resident => write!(f, "resident"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Fraction(share) => write!(f, "{}%", share * 100.0),
            Self::Auto => write!(f, "auto"),
        }
    }
}

/// Returns bytes as they are written, `None` for anything else and for more than 2^64.
fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("", 1),
    ];
    let number_and_unit = UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, unit)));
    let (number, unit) = number_and_unit?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_budgets_correspond() {
        for (text, budget) in [
            ("resident", Budget::Resident),
            ("auto", Budget::Auto),
            ("0", Budget::Bytes(0)),
            ("3MiB", Budget::Bytes(3 << 20)),
            ("24GB", Budget::Bytes(24_000_000_000)),
            ("25%", Budget::Fraction(0.25)),
        ] {
            assert_eq!(text.parse(), Ok(budget));
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
        for text in ["", "MiB", "-1", "101%", "99999999999GiB", "some"] {
            assert!(text.parse::<Budget>().unwrap_err().contains("no budget"));
        }
    }

    #[test]
    fn a_share_is_kept_over_every_prefix() {
        let page = 100;
        let mut resident = 0;
        for pages in 1..=40 {
            if Budget::Fraction(0.3).admits(resident, page, pages * page, 0) {
                resident += page;
            }
            assert_eq!(resident, (pages * 3 / 10) * page);
        }
    }
}
