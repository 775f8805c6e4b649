//! The number types that matrices are quantized from and multiplied with.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::simd::Simd;

/// A floating-point type that [`quantize`](crate::quantize) and [`matmul`](crate::matmul) read: `f32`, `f16` or
/// `bf16`. Quantizing gives the same result as quantizing the values converted to f32.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync {
    /// The values as f32, converted into `scratch` (of the same length) unless they are f32 already.
    #[doc(hidden)]
    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32];

    /// Whether [`Element::widen`] needs scratch.
    #[doc(hidden)]
    const CONVERTS: bool;

    /// Whether products multiply bf16 numbers, two at a time.
    #[doc(hidden)]
    const IN_PAIRS: bool;

    #[doc(hidden)]
    fn to_f32(self) -> f32;

    /// The nearest value, ties to even.
    #[doc(hidden)]
    fn from_f32(value: f32) -> Self;

    /// The bits of the nearest bf16.
    #[doc(hidden)]
    fn to_bf16_bits(self) -> u32;

    /// 16 values as f32.
    #[doc(hidden)]
    #[inline(always)]
    fn load_16<S: Simd>(s: S, values: &[Self; 16]) -> S::F {
        s.load(&values.map(Self::to_f32))
    }

    /// The values nearest to 16 lanes, as [`Simd::round`] gives them for bf16.
    #[doc(hidden)]
    #[inline(always)]
    fn round_16<S: Simd>(s: S, lanes: S::F) -> [Self; 16] {
        let mut values = [0.0; 16];
        s.store(lanes, &mut values);
        values.map(Self::from_f32)
    }

    /// The bits of 32 values, two a word, if they are bf16.
    #[doc(hidden)]
    #[inline(always)]
    fn bf16_words(_: &[Self; 32]) -> Option<[u32; 16]> {
        None
    }
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for f32 {}
impl sealed::Sealed for f16 {}
impl sealed::Sealed for bf16 {}

/// The bits of the bf16 nearest to `value`; without a branch, so that loops over it vectorise.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    if value.is_nan() { quiet } else { nearest }
}

impl Element for f32 {
    const CONVERTS: bool = false;
    const IN_PAIRS: bool = false;

    fn widen<'a>(values: &'a [Self], _scratch: &'a mut [f32]) -> &'a [f32] {
        values
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_bf16_bits(self) -> u32 {
        rounded(self)
    }
}

impl Element for f16 {
    const CONVERTS: bool = true;
    const IN_PAIRS: bool = false;

    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        values.convert_to_f32_slice(scratch);
        scratch
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    #[inline(always)]
    fn to_bf16_bits(self) -> u32 {
        rounded(f16::to_f32(self))
    }
}

impl Element for bf16 {
    const CONVERTS: bool = true;
    const IN_PAIRS: bool = true;

    fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        scratch
            .iter_mut()
            .zip(values)
            .for_each(|(out, x)| *out = Element::to_f32(*x));
        scratch
    }

    // The crate's own conversions look at NaNs one by one.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_bits(rounded(value) as u16)
    }

    #[inline(always)]
    fn to_bf16_bits(self) -> u32 {
        u32::from(self.to_bits())
    }

    #[inline(always)]
    fn load_16<S: Simd>(s: S, values: &[Self; 16]) -> S::F {
        s.float(s.low_to_high(s.widen_halves(bytemuck::cast_ref(values))))
    }

    #[inline(always)]
    fn round_16<S: Simd>(s: S, lanes: S::F) -> [Self; 16] {
        s.round(lanes).map(bf16::from_bits)
    }

    #[inline(always)]
    fn bf16_words(values: &[Self; 32]) -> Option<[u32; 16]> {
        cfg!(target_endian = "little").then(|| bytemuck::cast(*values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_is_the_crates() {
        let odd = [
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fff_ffff,
            0x0000_8000,
            0x0001_8000,
            1,
        ];
        let many = (0..1 << 16).map(|i: u32| i.wrapping_mul(0x9e37_79b1));
        for bits in odd.into_iter().chain(many) {
            for bits in [bits, bits ^ 1 << 31] {
                let value = f32::from_bits(bits);
                let found = <bf16 as Element>::from_f32(value);
                assert_eq!(found.to_bits(), bf16::from_f32(value).to_bits(), "{bits:x}");
            }
        }
    }
}
