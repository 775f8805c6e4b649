//! Arithmetic that rounds alike on every device, where the format needs it.
//!
//! Multiplication and addition are exact by every standard that the kernels run under. Two things are
//! not: a quotient (WGSL allows it to be off by 2.5 units in the last place, and GPUs use that
//! freedom), and a product that a compiler contracts with the sum it goes into.

use cubecl::prelude::*;

use crate::launch::is_cpu;

/// Returns whether the device rounds quotients to nearest: of those that the kernels run on, a CPU alone promises it.
pub(crate) fn divides_exactly(client: &Client) -> bool {
    is_cpu(client)
}

/// Returns `1 / value` rounded to nearest even, for a finite `value` that is not negative, and at most the largest finite
/// number (so for 0 too).
///
/// The format takes `x * (1 / absmax)` with a correctly rounded reciprocal: one unit in the last
/// place moves the codes of values that lie on a midpoint. It is computed in integers, by long
/// division of the mantissas: 24 steps, once a block.
///
/// A device that divides as IEEE 754 says (`exact_division`) divides.
///
/// Values above 2^126, whose reciprocal is subnormal, give 0 otherwise. (Devices may flush subnormal
/// numbers, so there the bits of the host could not be promised in any way; nor can they for a block
/// whose largest magnitude is subnormal.)
#[cube]
pub(crate) fn reciprocal(value: f32, #[comptime] exact_division: bool) -> f32 {
    if exact_division {
        min(f32::new(1.0) / value, f32::new(comptime!(f32::MAX)))
    } else {
        long_division(value)
    }
}

#[cube]
fn long_division(value: f32) -> f32 {
    let bits: u32 = value.to_bits();
    let mut result = f32::new(comptime!(f32::MAX));
    if bits > 0 {
        let mut exponent: u32 = bits >> 23;
        let mut divisor: u32 = bits & 0x7f_ffff;
        // Exponents are biased by 127, and by 32 more so that a subnormal's does not wrap below zero.
        if exponent > 0 {
            exponent += 32;
            divisor |= 0x80_0000;
        } else {
            let shift: u32 = divisor.leading_zeros() - 8;
            exponent = 33u32 - shift;
            divisor <<= shift;
        }
        // The mantissa of 1.0. Below any divisor but its own, then doubled to keep the quotient in 1..2.
        let mut rest = 0x80_0000u32;
        exponent = comptime!(254u32 + 32) - exponent;
        if rest < divisor {
            rest <<= 1;
            exponent -= 1;
        }
        let mut quotient = 0u32;
        for _ in 0..24u32 {
            quotient <<= 1;
            if rest >= divisor {
                rest -= divisor;
                quotient |= 1;
            }
            rest <<= 1;
        }
        // `rest` is now twice the remainder: against the divisor it tells which way to round. A tie
        // cannot be: 1 / value has either 24 bits or infinitely many.
        if rest > divisor {
            quotient += 1;
        }
        if quotient == 0x100_0000 {
            quotient >>= 1;
            exponent += 1;
        }
        result = finish(quotient, exponent);
    }
    result
}

/// Returns the number of a mantissa of 24 bits and a biased exponent (as an i32 in two's complement).
#[cube]
fn finish(mantissa: u32, exponent: u32) -> f32 {
    let exponent: i32 = i32::cast_from(exponent);
    let mut result = f32::new(comptime!(f32::MAX));
    if exponent <= 0 {
        result = f32::new(0.0);
    } else if exponent < 255 {
        result = f32::from_bits((u32::cast_from(exponent) << 23) | (mantissa & 0x7f_ffff));
    }
    result
}

/// Returns a product that goes into a sum, kept apart from it.
///
/// Compilers may contract `a * b + c` into a fused multiply-add, which rounds once where the format
/// rounds twice. `zero` is a kernel argument that is always 0, which no compiler can know: the
/// exclusive or leaves the product as it is and nothing to contract.
#[cube]
pub(crate) fn rounded(product: f32, zero: u32) -> f32 {
    f32::from_bits(product.to_bits() ^ zero)
}
