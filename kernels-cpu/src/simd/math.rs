//! The parts of plain loops that the compiler vectorises: element by element, or with sums kept in [`LANES`] separate
//! accumulators, because the compiler may not reorder a float sum itself.

use super::Simd;

/// Accumulators of a long sum: four AVX-512 registers, so that four additions are under way at a
/// time.
pub(crate) const LANES: usize = 64;

/// `1.5 · 2^23`: added to a number of less than 22 bits, it rounds it, to nearest and ties to even, into the lowest bits. Taken off
/// again, it leaves the whole number, without the call into a library that `round_ties_even` is where its instruction is missing.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

/// Returns `a · b + c`, rounded once where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Returns `f(.., i)` over `0..n` in `N` accumulators, a power of two, added up pair by pair.
#[inline(always)]
pub(crate) fn sum<const N: usize>(n: usize, f: impl Fn(f32, usize) -> f32) -> f32 {
    let mut lanes = [0f32; N];
    let whole = n - n % N;
    let mut start = 0;
    while start < whole {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total = f(*total, start + lane);
        }
        start += N;
    }
    for (lane, i) in (whole..n).enumerate() {
        lanes[lane] = f(lanes[lane], i);
    }
    fold(lanes, |a, b| a + b)
}

/// Returns the largest of `values`, `start` if none is larger; NaN may be passed over.
#[inline(always)]
pub(crate) fn max(start: f32, values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [start; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = larger(*lane, *value);
    }
    fold(lanes, larger)
}

/// Adds up, or picks from, a power of two of `lanes`: halves onto each other.
#[inline(always)]
pub(crate) fn fold<const N: usize>(mut lanes: [f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Returns `eˣ` within 2 ulp, without a branch, so that loops over it vectorise; NaN stays NaN, and what
/// would not be a normal number is the nearest one that is.
///
/// `eˣ = 2ⁿ · eʳ` with `n` the integer nearest `x / ln 2` and `|r| ≤ ln 2 / 2`; the polynomial is
/// that of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;

    // Comparisons, not `clamp`'s min and max: NaN must come through.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = mul_add::<S>(x, core::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let r = mul_add::<S>(n, -LN2_HIGH, x);
    let r = mul_add::<S>(n, -LN2_LOW, r);

    let p = 1.987_569_1e-4;
    let p = mul_add::<S>(p, r, 1.398_2e-3);
    let p = mul_add::<S>(p, r, 8.333_452e-3);
    let p = mul_add::<S>(p, r, 4.166_579_6e-2);
    let p = mul_add::<S>(p, r, 1.666_666_5e-1);
    let p = mul_add::<S>(p, r, 0.5);
    let p = mul_add::<S>(p, r * r, r + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    p * power
}

/// Returns `tanh(x)` within 2 ulp, without a branch, so that loops over it vectorise; NaN stays NaN.
///
/// Cephes' `tanhf`: an odd polynomial around 0, and further out `1 − 2e / (1 + e)` with `e = exp(−2|x|)`, which cannot
/// overflow.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: f32) -> f32 {
    let square = x * x;
    let p = -5.704_988_7e-3;
    let p = mul_add::<S>(p, square, 2.063_909e-2);
    let p = mul_add::<S>(p, square, -5.373_971_6e-2);
    let p = mul_add::<S>(p, square, 1.333_144_2e-1);
    let p = mul_add::<S>(p, square, -3.333_328e-1);
    let near = mul_add::<S>(x * square, p, x);

    let e = exp::<S>(-2.0 * x.abs());
    let far = (1.0 - 2.0 * e / (1.0 + e)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, kernel};

    kernel! {
        fn exp_all<S: Simd>(values: &mut [f32]) {
            for value in values {
                *value = exp::<S>(*value);
            }
        }

        fn tanh_all<S: Simd>(values: &mut [f32]) {
            for value in values {
                *value = tanh::<S>(*value);
            }
        }

        fn square_sum<S: Simd>(values: &[f32]) -> f32 {
            sum::<LANES>(values.len(), |total, i| mul_add::<S>(values[i], values[i], total))
        }

        fn largest<S: Simd>(values: &[f32]) -> f32 {
            max(f32::NEG_INFINITY, values)
        }
    }

    #[test]
    fn exp_is_within_two_ulp_of_the_exact_value() {
        let xs: Vec<f32> = (0..200_001).map(|i| i as f32 * 0.000_875 - 87.0).collect();
        for isa in Isa::available() {
            let mut actual = xs.clone();
            exp_all(*isa, &mut actual);
            for (x, y) in xs.iter().zip(actual) {
                let exact = (*x as f64).exp();
                let ulp = f32::EPSILON as f64 * exact;
                assert!(
                    (y as f64 - exact).abs() < 2.0 * ulp,
                    "{isa:?}: exp({x}) = {y}, not {exact}"
                );
            }
        }
    }

    #[test]
    fn exp_of_what_is_far_out_is_finite_and_nan_stays() {
        for isa in Isa::available() {
            let mut values = [0.0, f32::NEG_INFINITY, -1e30, 1e30, f32::NAN];
            exp_all(*isa, &mut values);
            assert_eq!(values[0], 1.0);
            assert!(values[1] < 2e-38 && values[2] < 2e-38);
            assert!(values[3].is_finite() && values[3] > 1e38);
            assert!(values[4].is_nan());
        }
    }

    #[test]
    fn tanh_is_within_two_ulp_of_the_exact_value() {
        let steps = (0..200_001).map(|i| i as f32 * 0.000_1 - 10.0);
        let small = (0..2_000).map(|i| 0.7 * 0.99f32.powi(i));
        let xs: Vec<f32> = steps.chain(small).collect();
        for isa in Isa::available() {
            let mut actual = xs.clone();
            tanh_all(*isa, &mut actual);
            for (x, y) in xs.iter().zip(actual) {
                let exact = (*x as f64).tanh();
                let ulp = (f32::EPSILON as f64 * exact.abs()).max(f32::MIN_POSITIVE as f64);
                assert!(
                    (y as f64 - exact).abs() < 2.0 * ulp,
                    "{isa:?}: tanh({x}) = {y}, not {exact}"
                );
            }
        }
    }

    #[test]
    fn tanh_of_what_is_far_out_is_one_and_nan_stays() {
        for isa in Isa::available() {
            let mut values = [1e4, -1e30, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN];
            tanh_all(*isa, &mut values);
            assert_eq!(values[..5], [1.0, -1.0, 1.0, -1.0, 0.0], "{isa:?}");
            assert!(values[5].is_nan(), "{isa:?}");
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element_once() {
        for isa in Isa::available() {
            for n in [0, 1, 63, 64, 65, 200] {
                let values: Vec<f32> = (0..n).map(|i| ((i * 7) % 200) as f32).collect();
                let expected: f32 = values.iter().map(|x| x * x).sum();
                assert_eq!(square_sum(*isa, &values), expected);
                let expected = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(largest(*isa, &values), expected);
            }
        }
    }
}
