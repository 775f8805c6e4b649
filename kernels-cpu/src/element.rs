//! The number types that matrices are quantized from and that kernels read and write; all compute in f32.
//!
//! Half-precision values are widened a cache-sized piece at a time, so that memory is passed over once, at half the
//! width.

use std::mem::MaybeUninit;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::buffer::{as_uninit, written};
use crate::simd::{Isa, Simd, kernel};

/// A floating-point type that kernels read and write: `f32`, `f16` or `bf16`. Quantizing gives the same result as
/// quantizing the values converted to f32.
pub trait Element: sealed::Sealed + bytemuck::Pod + Default + Send + Sync {
    /// Returns the values as f32: themselves, or converted into `scratch`.
    #[doc(hidden)]
    fn read<'a>(isa: Isa, values: &'a [Self], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        scratch.resize(values.len(), 0.0);
        Self::widen_slice(isa, values, scratch);
        scratch
    }

    /// Writes every value of `to`: the nearest to what `f` puts into its argument, which is every element of it.
    #[doc(hidden)]
    fn write(
        isa: Isa,
        to: &mut [MaybeUninit<Self>],
        scratch: &mut Vec<f32>,
        f: impl FnOnce(&mut [MaybeUninit<f32>]),
    ) {
        scratch.resize(to.len(), 0.0);
        // SAFETY: initialised f32 may be seen as possibly uninitialised ones; `f` only writes values.
        f(unsafe { as_uninit(scratch) });
        Self::narrow_slice(isa, scratch, to);
    }

    /// Lets `f` change the values.
    #[doc(hidden)]
    fn modify(isa: Isa, values: &mut [Self], scratch: &mut Vec<f32>, f: impl FnOnce(&mut [f32])) {
        scratch.resize(values.len(), 0.0);
        Self::widen_slice(isa, values, scratch);
        f(scratch);
        // SAFETY: values may be seen as possibly uninitialised ones; `narrow_slice` only writes values.
        Self::narrow_slice(isa, scratch, unsafe { as_uninit(values) });
    }

    /// Converts every value to f32.
    #[doc(hidden)]
    fn widen_slice(isa: Isa, from: &[Self], to: &mut [f32]);

    /// Converts every value to the nearest, ties to even.
    #[doc(hidden)]
    fn narrow_slice(isa: Isa, from: &[f32], to: &mut [MaybeUninit<Self>]);

    /// Returns the nearest to every value: of f32, the vector itself.
    #[doc(hidden)]
    fn narrow_vec(isa: Isa, values: Vec<f32>) -> Vec<Self> {
        // SAFETY: `narrow_slice` writes every value.
        unsafe { written(values.len(), |to| Self::narrow_slice(isa, &values, to)) }
    }

    /// The type that products of these values multiply: bf16 in pairs, others as f32.
    #[doc(hidden)]
    type Operand: Element;

    /// Converts the values to operands of products.
    #[doc(hidden)]
    fn operands(isa: Isa, from: &[Self], to: &mut [Self::Operand]);

    /// Whether products multiply bf16 numbers, two at a time.
    #[doc(hidden)]
    const IN_PAIRS: bool;

    #[doc(hidden)]
    fn to_f32(self) -> f32;

    /// Returns the nearest value, ties to even.
    #[doc(hidden)]
    fn from_f32(value: f32) -> Self;

    /// Returns the bits of the nearest bf16.
    #[doc(hidden)]
    fn to_bf16_bits(self) -> u32;

    /// Returns 16 values as f32.
    #[doc(hidden)]
    #[inline(always)]
    fn load_16<S: Simd>(s: S, values: &[Self; 16]) -> S::F {
        s.load(&values.map(Self::to_f32))
    }

    /// Returns the values nearest to 16 lanes, as [`Simd::round`] gives them for bf16.
    #[doc(hidden)]
    #[inline(always)]
    fn round_16<S: Simd>(s: S, lanes: S::F) -> [Self; 16] {
        let mut values = [0.0; 16];
        s.store(lanes, &mut values);
        values.map(Self::from_f32)
    }

    /// Returns the bits of 32 values, two a word, if they are bf16.
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

/// Returns the bits of the bf16 nearest to `value`; without a branch, so that loops over it vectorise.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    if value.is_nan() { quiet } else { nearest }
}

impl Element for f32 {
    const IN_PAIRS: bool = false;

    type Operand = Self;

    fn read<'a>(_: Isa, values: &'a [Self], _: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }

    fn write(
        _: Isa,
        to: &mut [MaybeUninit<Self>],
        _: &mut Vec<f32>,
        f: impl FnOnce(&mut [MaybeUninit<f32>]),
    ) {
        f(to);
    }

    fn modify(_: Isa, values: &mut [Self], _: &mut Vec<f32>, f: impl FnOnce(&mut [f32])) {
        f(values);
    }

    fn narrow_vec(_: Isa, values: Vec<f32>) -> Vec<Self> {
        values
    }

    fn widen_slice(_: Isa, from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow_slice(_: Isa, from: &[f32], to: &mut [MaybeUninit<Self>]) {
        to.write_copy_of_slice(from);
    }

    fn operands(_: Isa, from: &[Self], to: &mut [Self]) {
        to.copy_from_slice(from);
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
    const IN_PAIRS: bool = false;

    type Operand = f32;

    // The crate's own conversions ask for the instructions themselves.
    fn widen_slice(_: Isa, from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn narrow_slice(_: Isa, from: &[f32], to: &mut [MaybeUninit<Self>]) {
        // SAFETY: every bit pattern is a number, and all that is done is to write them.
        let to = unsafe { &mut *(to as *mut [MaybeUninit<Self>] as *mut [Self]) };
        to.convert_from_f32_slice(from);
    }

    fn operands(isa: Isa, from: &[Self], to: &mut [f32]) {
        Self::widen_slice(isa, from, to);
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

    // Exponents of f16 begin 112 above those of f32: the same bits, as far left as they belong there, are a number that is too small
    // by that, subnormal ones included. Infinity and NaN have the largest exponent of each type.
    #[inline(always)]
    fn load_16<S: Simd>(s: S, values: &[Self; 16]) -> S::F {
        let halves = s.widen_halves(bytemuck::cast_ref(values));
        let magnitude = s.shift_left(s.and_u(halves, s.splat_u(0x7fff)), 16);
        let small = s.float(s.shift_right(magnitude, 3));
        let value = s.mul(small, s.splat(f32::from_bits((127 + 112) << 23)));
        let largest = s.splat(f16::MAX.to_f32());
        let value = s.add_where_less(s.bits(value), 112 << 23, largest, value);
        let sign = s.shift_left(s.and_u(halves, s.splat_u(0x8000)), 16);
        s.float(s.or_u(value, sign))
    }
}

impl Element for bf16 {
    const IN_PAIRS: bool = true;

    type Operand = Self;

    fn widen_slice(isa: Isa, from: &[Self], to: &mut [f32]) {
        widen_bf16(isa, from, to);
    }

    fn narrow_slice(isa: Isa, from: &[f32], to: &mut [MaybeUninit<Self>]) {
        narrow_bf16(isa, from, to);
    }

    fn operands(_: Isa, from: &[Self], to: &mut [Self]) {
        to.copy_from_slice(from);
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
        s.float(s.shift_left(s.widen_halves(bytemuck::cast_ref(values)), 16))
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

kernel! {
    fn widen_bf16<S: Simd>(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Element::to_f32(*from);
        }
    }

    fn narrow_bf16<S: Simd>(from: &[f32], to: &mut [MaybeUninit<bf16>]) {
        for (to, from) in to.iter_mut().zip(from) {
            to.write(Element::from_f32(*from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn load<S: Simd>(s: S, values: &[f16; 16], to: &mut [f32; 16]) {
        s.store(f16::load_16(s, values), to);
    }

    kernel! { fn loaded(values: &[f16; 16], to: &mut [f32; 16]) = load; }

    #[test]
    fn every_f16_is_loaded_as_the_crate_widens_it() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for isa in Isa::available() {
            for values in all.as_chunks().0 {
                let mut found = [0.0; 16];
                loaded(*isa, values, &mut found);
                for (value, found) in values.iter().zip(found) {
                    let expected = value.to_f32();
                    let same = expected.to_bits() == found.to_bits();
                    assert!(
                        same || expected.is_nan() && found.is_nan(),
                        "{isa:?} {value:?}: {found}"
                    );
                }
            }
        }
    }

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
