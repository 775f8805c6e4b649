//! Rounding to narrower formats.
//!
//! Sums and products are computed in double precision rounded to odd, which keeps enough of what is lost for the second rounding
//! to be right in every mode, as a format of `p` bits needs `p + 2` for that (Boldo and Melquiond, "Emulation of a FMA and
//! correctly rounded sums", 2008).

use half::{bf16, f16};

/// How what lies between two numbers becomes one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, of two to the even one: `.rn`, `.rni`.
    Nearest,
    /// To the nearest, of two away from zero: `.rna`.
    NearestAway,
    /// Towards zero: `.rz`, `.rzi`.
    Zero,
    /// Down: `.rm`, `.rmi`.
    Down,
    /// Up: `.rp`, `.rpi`.
    Up,
}

impl Rounding {
    /// The modifiers of floating-point results.
    pub const OF_FLOATS: &[(&'static str, Self)] = &[
        ("rn", Self::Nearest),
        ("rna", Self::NearestAway),
        ("rz", Self::Zero),
        ("rm", Self::Down),
        ("rp", Self::Up),
    ];
    /// The modifiers of integer results.
    pub const TO_INTEGERS: &[(&'static str, Self)] = &[
        ("rni", Self::Nearest),
        ("rzi", Self::Zero),
        ("rmi", Self::Down),
        ("rpi", Self::Up),
    ];

    /// Rounds to an integer.
    pub fn integer(self, value: f64) -> f64 {
        match self {
            Self::Nearest => value.round_ties_even(),
            Self::NearestAway => value.round(),
            Self::Zero => value.trunc(),
            Self::Down => value.floor(),
            Self::Up => value.ceil(),
        }
    }
}

/// A binary floating-point format, as far as rounding needs to know it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Format {
    /// Bits of the significand, the hidden one included.
    pub precision: i32,
    /// The exponent of the least normal number.
    pub least_exponent: i32,
    /// The greatest number.
    pub max: f64,
}

impl Format {
    /// Half precision.
    pub const F16: Self = Self {
        precision: 11,
        least_exponent: -14,
        max: 65504.0,
    };
    /// Brain floating point.
    pub const BF16: Self = Self {
        precision: 8,
        least_exponent: -126,
        max: 3.389_531_389_251_535_5e38,
    };
    /// TensorFloat-32.
    pub const TF32: Self = Self {
        precision: 11,
        least_exponent: -126,
        max: 3.401_162_134_214_653_5e38,
    };
    /// Single precision.
    pub const F32: Self = Self {
        precision: 24,
        least_exponent: -126,
        max: f32::MAX as f64,
    };
}

/// Returns the number of a format that `value` rounds to.
pub fn rounded(value: f64, format: Format, mode: Rounding) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = exponent_of(value).max(format.least_exponent);
    // A power of two, so that scaling is exact.
    let quantum = 2f64.powi(exponent - format.precision + 1);
    let result = mode.integer(value / quantum) * quantum;
    if result.abs() <= format.max {
        return result.copysign(value);
    }
    let away = match mode {
        Rounding::Nearest | Rounding::NearestAway => true,
        Rounding::Zero => false,
        Rounding::Down => value < 0.0,
        Rounding::Up => value > 0.0,
    };
    let magnitude = if away { f64::INFINITY } else { format.max };
    magnitude.copysign(value)
}

/// Returns `value`, or a zero of its sign for a subnormal one where those are flushed (`.ftz`).
pub fn flushed(value: f32, flushes: bool) -> f32 {
    if flushes && value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

/// Returns the exponent of the leading bit.
fn exponent_of(value: f64) -> i32 {
    let biased = (value.to_bits() >> 52 & 0x7ff) as i32;
    if biased == 0 {
        // Subnormal in double precision: below every format's least number.
        -1023
    } else {
        biased - 1023
    }
}

/// Returns `a + b` rounded to odd.
pub fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // What the rounding of the sum lost, exactly (Knuth's two-sum).
    let b_rounded = sum - a;
    let lost = (a - (sum - b_rounded)) + (b - b_rounded);
    let is_odd = sum.to_bits() & 1 == 1;
    if !sum.is_finite() || lost == 0.0 || lost.is_nan() || is_odd {
        sum
    } else if lost > 0.0 {
        sum.next_up()
    } else {
        sum.next_down()
    }
}

/// Returns the double-precision number that an integer rounds to, to odd.
pub fn integer_to_odd(value: i128) -> f64 {
    let nearest = value as f64;
    let lost = value - nearest as i128;
    match lost {
        0 => nearest,
        _ if nearest.to_bits() & 1 == 1 => nearest,
        1.. => nearest.next_up(),
        _ => nearest.next_down(),
    }
}

/// Returns the half-precision number that `value` rounds to.
pub fn to_f16(value: f64, mode: Rounding) -> f16 {
    if value.is_nan() {
        return f16::from_bits(0x7fff);
    }
    f16::from_f64(rounded(value, Format::F16, mode))
}

/// Returns the brain floating-point number that `value` rounds to.
pub fn to_bf16(value: f64, mode: Rounding) -> bf16 {
    if value.is_nan() {
        return bf16::from_bits(0x7fff);
    }
    bf16::from_f64(rounded(value, Format::BF16, mode))
}

/// Returns the single-precision number that `value` rounds to.
pub fn to_f32(value: f64, mode: Rounding) -> f32 {
    match mode {
        Rounding::Nearest => value as f32,
        _ => rounded(value, Format::F32, mode) as f32,
    }
}
