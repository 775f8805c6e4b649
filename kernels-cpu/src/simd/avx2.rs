//! AVX2 and FMA: two registers are 16 lanes, and two `vpermps` with a blend are a 16-entry table.

// SAFETY, for every block below: an `Avx2` exists only on machines that have the instructions (see `new`), and each
// method is inlined into a function compiled for them. Memory is touched through arrays of the right size.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine has AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

// Helpers are functions and not closures, because only functions can be made to inline into the code compiled for AVX2.

/// Looks up 8 codes. The permutation sees their low 3 bits; bit 3, moved to the sign, chooses the half of the table.
#[inline(always)]
fn lookup_8(table: [__m256; 2], codes: __m256i) -> __m256 {
    unsafe {
        let low = _mm256_permutevar8x32_ps(table[0], codes);
        let high = _mm256_permutevar8x32_ps(table[1], codes);
        _mm256_blendv_ps(
            low,
            high,
            _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)),
        )
    }
}

/// Packs 8 codes: each is shifted to its place in the word, then the lanes are or-ed together.
#[inline(always)]
fn pack_8(codes: __m256i) -> u32 {
    unsafe {
        let placed = _mm256_sllv_epi32(codes, _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0));
        let four = _mm_or_si128(
            _mm256_castsi256_si128(placed),
            _mm256_extracti128_si256::<1>(placed),
        );
        let two = _mm_or_si128(four, _mm_unpackhi_epi64(four, four));
        _mm_cvtsi128_si32(_mm_or_si128(two, _mm_shuffle_epi32::<1>(two))) as u32
    }
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type U = [__m256i; 2];
    type Table = [__m256; 2];

    const MR: usize = 6;
    const NR: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        unsafe {
            [
                _mm256_loadu_ps(from.as_ptr()),
                _mm256_loadu_ps(from[8..].as_ptr()),
            ]
        }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), value[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn sum(self, value: Self::F) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(value, &mut lanes);
        super::Portable.sum(lanes)
    }

    #[inline(always)]
    fn bits(self, value: Self::F) -> Self::U {
        unsafe { [_mm256_castps_si256(value[0]), _mm256_castps_si256(value[1])] }
    }

    #[inline(always)]
    fn float(self, bits: Self::U) -> Self::F {
        unsafe { [_mm256_castsi256_ps(bits[0]), _mm256_castsi256_ps(bits[1])] }
    }

    #[inline(always)]
    fn splat_u(self, value: u32) -> Self::U {
        unsafe { [_mm256_set1_epi32(value as i32); 2] }
    }

    #[inline(always)]
    fn load_u(self, from: &[u32; 16]) -> Self::U {
        unsafe {
            [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from[8..].as_ptr().cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_u(self, value: Self::U, to: &mut [u32; 16]) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), value[0]);
            _mm256_storeu_si256(to[8..].as_mut_ptr().cast(), value[1]);
        }
    }

    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn and_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn or_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn shift_left(self, value: Self::U, by: u32) -> Self::U {
        unsafe {
            let by = _mm_cvtsi32_si128(by as i32);
            [
                _mm256_sll_epi32(value[0], by),
                _mm256_sll_epi32(value[1], by),
            ]
        }
    }

    #[inline(always)]
    fn dot_bytes(self, a: Self::U, b: Self::U, sum: Self::U) -> Self::U {
        let half = |i: usize| unsafe {
            let (a, b) = (a[i], b[i]);
            let even = _mm256_madd_epi16(
                _mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
            _mm256_add_epi32(sum[i], _mm256_add_epi32(even, odd))
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn converted(self, value: Self::U) -> Self::F {
        unsafe { [_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])] }
    }

    #[inline(always)]
    fn shift_right(self, value: Self::U, by: u32) -> Self::U {
        unsafe {
            let by = _mm_cvtsi32_si128(by as i32);
            [
                _mm256_srl_epi32(value[0], by),
                _mm256_srl_epi32(value[1], by),
            ]
        }
    }

    #[inline(always)]
    fn add_where_less(self, index: Self::U, step: u32, a: Self::F, b: Self::F) -> Self::U {
        unsafe {
            let step = _mm256_set1_epi32(step as i32);
            let less = [
                _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]),
                _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]),
            ];
            [
                _mm256_add_epi32(
                    index[0],
                    _mm256_and_si256(_mm256_castps_si256(less[0]), step),
                ),
                _mm256_add_epi32(
                    index[1],
                    _mm256_and_si256(_mm256_castps_si256(less[1]), step),
                ),
            ]
        }
    }

    #[inline(always)]
    fn max_magnitude(self, max: Self::U, value: Self::F) -> Self::U {
        unsafe {
            let mask = _mm256_set1_epi32(0x7fff_ffff);
            let bits = self.bits(value);
            [
                _mm256_max_epu32(max[0], _mm256_and_si256(bits[0], mask)),
                _mm256_max_epu32(max[1], _mm256_and_si256(bits[1], mask)),
            ]
        }
    }

    #[inline(always)]
    fn max_lane(self, value: Self::U) -> u32 {
        let mut lanes = [0; 16];
        self.store_u(value, &mut lanes);
        super::Portable.max_lane(lanes)
    }

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> Self::Table {
        self.load(values)
    }

    #[inline(always)]
    fn lookup(self, table: Self::Table, codes: Self::U) -> Self::F {
        [lookup_8(table, codes[0]), lookup_8(table, codes[1])]
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Self::U {
        unsafe {
            let shifts = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
            [
                _mm256_srlv_epi32(_mm256_set1_epi32(words[0] as i32), shifts),
                _mm256_srlv_epi32(_mm256_set1_epi32(words[1] as i32), shifts),
            ]
        }
    }

    #[inline(always)]
    fn pack(self, codes: [Self::U; 2]) -> [u32; 4] {
        let [low, high] = codes;
        [
            pack_8(low[0]),
            pack_8(low[1]),
            pack_8(high[0]),
            pack_8(high[1]),
        ]
    }

    #[inline(always)]
    fn quarters(self, values: &[f32; 4]) -> Self::F {
        unsafe {
            let values = _mm_loadu_ps(values.as_ptr());
            let values = _mm256_set_m128(values, values);
            let low = _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0);
            let high = _mm256_set_epi32(3, 3, 3, 3, 2, 2, 2, 2);
            [
                _mm256_permutevar_ps(values, low),
                _mm256_permutevar_ps(values, high),
            ]
        }
    }

    #[inline(always)]
    fn widen(self, bytes: [u32; 4]) -> Self::U {
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            [
                _mm256_cvtepu8_epi32(bytes),
                _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)),
            ]
        }
    }

    #[inline(always)]
    fn widen_halves(self, halves: &[u16; 16]) -> Self::U {
        unsafe {
            let halves = halves.as_ptr().cast::<__m128i>();
            [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(halves)),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.add(1))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Self::U) -> Self::F {
        unsafe {
            [
                _mm256_i32gather_ps::<4>(from.as_ptr(), index[0]),
                _mm256_i32gather_ps::<4>(from.as_ptr(), index[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather_u(self, from: &[u32], index: Self::U) -> Self::U {
        unsafe {
            [
                _mm256_i32gather_epi32::<4>(from.as_ptr().cast(), index[0]),
                _mm256_i32gather_epi32::<4>(from.as_ptr().cast(), index[1]),
            ]
        }
    }
}
