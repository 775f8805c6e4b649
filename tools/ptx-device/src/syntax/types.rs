//! The fundamental types of the PTX ISA (section "Fundamental Types" and those that single instructions add).

/// The type that a directive or an instruction names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the ISA's names")]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F32x2,
    F64,
}

impl Type {
    /// Returns the type of that name, written without its dot.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::BF16,
            "bf16x2" => Self::BF16x2,
            "tf32" => Self::TF32,
            "f32" => Self::F32,
            "f32x2" => Self::F32x2,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Returns the size in bytes; a predicate has none of its own and counts as one.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::BF16 => 2,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::TF32 => 4,
            Self::F16x2 | Self::BF16x2 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 => 8,
            Self::B128 => 16,
        }
    }

    /// Returns the width in bits, of which a register has 64 at most.
    fn width(self) -> usize {
        match self {
            Self::Pred => 1,
            other => 8 * other.bytes().min(8),
        }
    }

    /// Returns the bits of a value of the type, with zeros above.
    pub fn narrowed(self, bits: u64) -> u64 {
        bits & (u64::MAX >> (64 - self.width()))
    }

    /// Returns the bits of a value of the type, above them its sign where it is signed, else zeros.
    pub fn widened(self, bits: u64) -> u64 {
        let unused = 64 - self.width();
        if self.is_signed() {
            ((bits << unused).cast_signed() >> unused).cast_unsigned()
        } else {
            self.narrowed(bits)
        }
    }

    /// Returns whether it is a signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Returns whether it holds floating-point numbers.
    pub fn is_float(self) -> bool {
        use Type::{BF16, BF16x2, F16, F16x2, F32, F32x2, F64, TF32};
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | TF32 | F32 | F32x2 | F64)
    }
}
