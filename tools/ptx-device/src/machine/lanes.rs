//! Values of a warp's lanes.

use half::{bf16, f16};
use std::array::from_fn;

/// The lanes of a warp.
pub const WARP: usize = 32;

/// A register's value in each lane: its bits, with zeros above its width.
pub type Lanes = [u64; WARP];

/// Lanes that take part, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask(pub u32);

impl Mask {
    /// All lanes.
    pub const ALL: Self = Self(u32::MAX);

    /// Returns the lanes, lowest first.
    pub fn lanes(self) -> impl Iterator<Item = usize> {
        (0..WARP).filter(move |lane| self.has(*lane))
    }

    /// Returns whether `lane` is among them.
    pub fn has(self, lane: usize) -> bool {
        self.0 >> lane & 1 == 1
    }

    /// Returns the number of lanes.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns whether there is no lane.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the lanes for which `test` holds.
    pub fn of(test: impl Fn(usize) -> bool) -> Self {
        Self((0..WARP).fold(0, |mask, lane| mask | u32::from(test(lane)) << lane))
    }

    /// Returns the lanes that are in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the lanes that are in one of the two.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the lanes that `other` does not have.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A type that a register's bits are read as.
pub trait Word: Copy {
    /// Reads the lowest bits.
    fn of(bits: u64) -> Self;
    /// Returns the bits, with zeros above.
    fn bits(self) -> u64;
}

macro_rules! integer_words {
    ($($signed:ty, $unsigned:ty);+) => {$(
        impl Word for $unsigned {
            fn of(bits: u64) -> Self {
                bits as Self
            }
            fn bits(self) -> u64 {
                self.into()
            }
        }
        impl Word for $signed {
            fn of(bits: u64) -> Self {
                bits as Self
            }
            fn bits(self) -> u64 {
                self.cast_unsigned().into()
            }
        }
    )+};
}

integer_words!(i8, u8; i16, u16; i32, u32; i64, u64);

impl Word for bool {
    fn of(bits: u64) -> Self {
        bits & 1 == 1
    }
    fn bits(self) -> u64 {
        self.into()
    }
}

impl Word for f32 {
    fn of(bits: u64) -> Self {
        Self::from_bits(bits as u32)
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}

impl Word for f64 {
    fn of(bits: u64) -> Self {
        Self::from_bits(bits)
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

macro_rules! half_words {
    ($($half:ty),+) => {$(
        impl Word for $half {
            fn of(bits: u64) -> Self {
                Self::from_bits(bits as u16)
            }
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
    )+};
}

half_words!(f16, bf16);

/// The only word of a register.
impl<T: Word> Word for [T; 1] {
    fn of(bits: u64) -> Self {
        [T::of(bits)]
    }
    fn bits(self) -> u64 {
        self[0].bits()
    }
}

/// Two words in one register, the first in the lower half.
impl<T: Word> Word for [T; 2] {
    fn of(bits: u64) -> Self {
        let width = 8 * size_of::<T>();
        [T::of(bits), T::of(bits >> width)]
    }
    fn bits(self) -> u64 {
        let width = 8 * size_of::<T>();
        self[0].bits() | self[1].bits() << width
    }
}

/// Applies `f` to each lane.
pub fn map<A: Word, R: Word>(a: &Lanes, f: impl Fn(A) -> R) -> Lanes {
    from_fn(|lane| f(A::of(a[lane])).bits())
}

/// Applies `f` to each lane of two registers.
pub fn map2<A: Word, B: Word, R: Word>(a: &Lanes, b: &Lanes, f: impl Fn(A, B) -> R) -> Lanes {
    from_fn(|lane| f(A::of(a[lane]), B::of(b[lane])).bits())
}

/// Applies `f` to each lane of three registers.
pub fn map3<A: Word, B: Word, C: Word, R: Word>(
    [a, b, c]: [&Lanes; 3],
    f: impl Fn(A, B, C) -> R,
) -> Lanes {
    from_fn(|lane| f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).bits())
}

/// Applies `f` to each lane of four registers.
pub fn map4<A: Word, B: Word, C: Word, D: Word, R: Word>(
    [a, b, c, d]: [&Lanes; 4],
    f: impl Fn(A, B, C, D) -> R,
) -> Lanes {
    from_fn(|lane| {
        f(
            A::of(a[lane]),
            B::of(b[lane]),
            C::of(c[lane]),
            D::of(d[lane]),
        )
        .bits()
    })
}
