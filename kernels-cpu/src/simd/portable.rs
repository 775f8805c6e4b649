//! Arrays of 16, which the compiler turns into whatever vectors the target has.

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each<T: Copy, R>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> R) -> [R; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = [f32; 16];
    type U = [u32; 16];
    type Table = [f32; 16];

    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    const MR: usize = 4;
    const NR: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        if Self::FUSED {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    fn sum(self, mut value: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                value[i] += value[i + half];
            }
        }
        value[0]
    }

    #[inline(always)]
    fn bits(self, value: Self::F) -> Self::U {
        value.map(f32::to_bits)
    }

    #[inline(always)]
    fn float(self, bits: Self::U) -> Self::F {
        bits.map(f32::from_bits)
    }

    #[inline(always)]
    fn splat_u(self, value: u32) -> Self::U {
        [value; 16]
    }

    #[inline(always)]
    fn load_u(self, from: &[u32; 16]) -> Self::U {
        *from
    }

    #[inline(always)]
    fn store_u(self, value: Self::U, to: &mut [u32; 16]) {
        *to = value;
    }

    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        each(a, b, u32::wrapping_add)
    }

    #[inline(always)]
    fn and_u(self, a: Self::U, b: Self::U) -> Self::U {
        each(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or_u(self, a: Self::U, b: Self::U) -> Self::U {
        each(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn shift_left(self, value: Self::U, by: u32) -> Self::U {
        value.map(|lane| lane << by)
    }

    #[inline(always)]
    fn shift_right(self, value: Self::U, by: u32) -> Self::U {
        value.map(|lane| lane >> by)
    }

    #[inline(always)]
    fn add_where_less(self, index: Self::U, step: u32, a: Self::F, b: Self::F) -> Self::U {
        std::array::from_fn(|i| index[i] + if a[i] < b[i] { step } else { 0 })
    }

    #[inline(always)]
    fn max_magnitude(self, max: Self::U, value: Self::F) -> Self::U {
        std::array::from_fn(|i| max[i].max(value[i].to_bits() & 0x7fff_ffff))
    }

    #[inline(always)]
    fn max_lane(self, value: Self::U) -> u32 {
        value.into_iter().fold(0, u32::max)
    }

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> Self::Table {
        *values
    }

    #[inline(always)]
    fn lookup(self, table: Self::Table, codes: Self::U) -> Self::F {
        codes.map(|code| table[(code & 15) as usize])
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Self::U {
        std::array::from_fn(|i| words[i / 8] >> (4 * (i % 8)))
    }

    #[inline(always)]
    fn pack(self, codes: [Self::U; 2]) -> [u32; 4] {
        std::array::from_fn(|word| {
            let codes = &codes[word / 2][word % 2 * 8..][..8];
            codes
                .iter()
                .rev()
                .fold(0, |packed, code| packed << 4 | code)
        })
    }

    #[inline(always)]
    fn widen(self, bytes: [u32; 4]) -> Self::U {
        std::array::from_fn(|i| bytes[i / 4] >> (8 * (i % 4)) & 255)
    }

    #[inline(always)]
    fn widen_halves(self, halves: &[u16; 16]) -> Self::U {
        halves.map(u32::from)
    }

    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Self::U) -> Self::F {
        index.map(|i| from[i as usize])
    }

    #[inline(always)]
    unsafe fn gather_u(self, from: &[u32], index: Self::U) -> Self::U {
        index.map(|i| from[i as usize])
    }

    /// Counting compares in place of looking up: that vectorises without a table instruction.
    #[inline(always)]
    fn rank(self, midpoints: Self::Table, value: Self::F) -> Self::U {
        let mut rank = [0; 16];
        for midpoint in &midpoints[..15] {
            for i in 0..16 {
                rank[i] += u32::from(*midpoint < value[i]);
            }
        }
        rank
    }
}
