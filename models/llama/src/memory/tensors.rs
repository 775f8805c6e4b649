use std::iter::Sum;
use std::ops::{Add, Mul};

/// Bytes of the largest allocation that CubeCL's adaptive memory puts on its pages for small ones (`SMALL_SLICE` in
/// cubecl-server's `memory_management/dynamic/adaptive.rs`).
const SMALL_SLICE: u128 = 64 << 10;

/// The bytes of some tensors, those of small ones apart: they are on pages of their own where memory is reserved in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tensors {
    /// Of tensors of up to 64 KiB.
    pub(super) small: u128,
    /// Of all others.
    pub(super) large: u128,
}

impl Tensors {
    /// One tensor of so many bytes.
    pub(super) fn one(bytes: u128) -> Self {
        if bytes <= SMALL_SLICE {
            Self {
                small: bytes,
                large: 0,
            }
        } else {
            Self {
                small: 0,
                large: bytes,
            }
        }
    }

    /// Returns the bytes of all of them.
    pub fn bytes(self) -> u64 {
        u64::try_from(self.small + self.large).unwrap_or(u64::MAX)
    }

    /// Returns those that take more.
    pub(super) fn max(self, other: Self) -> Self {
        if other.bytes() > self.bytes() {
            other
        } else {
            self
        }
    }

    /// Returns these without as many bytes as `freed`.
    pub(super) fn without(self, freed: Self) -> Self {
        Self {
            small: self.small.saturating_sub(freed.small),
            large: self.large.saturating_sub(freed.large),
        }
    }
}

impl Add for Tensors {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            small: self.small + other.small,
            large: self.large + other.large,
        }
    }
}

impl Mul<Tensors> for u128 {
    type Output = Tensors;

    fn mul(self, tensors: Tensors) -> Tensors {
        Tensors {
            small: self * tensors.small,
            large: self * tensors.large,
        }
    }
}

impl Sum for Tensors {
    fn sum<I: Iterator<Item = Self>>(tensors: I) -> Self {
        tensors.fold(Self::default(), Add::add)
    }
}
