//! AVX-512 (F, BW, VL; BF16 and VNNI where `BF16` says so): one register is 16 lanes, and `vpermps` is a 16-entry table.

// SAFETY, for every block below: an `Avx512` exists only on machines that have the instructions (see `new`), and each
// method is inlined into a function compiled for them. Memory is touched through arrays of the right size.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::{Simd, dot_pairs, round_pairs};

#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The machine has AVX-512 F, BW and VL, AVX2 and FMA, and AVX-512 BF16 and VNNI if `BF16`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type U = __m512i;
    type Table = __m512;

    const MR: usize = 12;
    const NR: usize = 32;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sum(self, value: Self::F) -> f32 {
        unsafe { _mm512_reduce_add_ps(value) }
    }

    #[inline(always)]
    fn sums<const N: usize>(self, values: [Self::F; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        let (fours, rest) = values.as_chunks::<4>();
        let (four_sums, rest_sums) = sums.as_chunks_mut::<4>();
        for (sums, values) in four_sums.iter_mut().zip(fours) {
            *sums = unsafe { four_sums_of(*values) };
        }
        for (sum, value) in rest_sums.iter_mut().zip(rest) {
            *sum = self.sum(*value);
        }
        sums
    }

    #[inline(always)]
    fn bits(self, value: Self::F) -> Self::U {
        unsafe { _mm512_castps_si512(value) }
    }

    #[inline(always)]
    fn float(self, bits: Self::U) -> Self::F {
        unsafe { _mm512_castsi512_ps(bits) }
    }

    #[inline(always)]
    fn splat_u(self, value: u32) -> Self::U {
        unsafe { _mm512_set1_epi32(value as i32) }
    }

    #[inline(always)]
    fn load_u(self, from: &[u32; 16]) -> Self::U {
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_u(self, value: Self::U, to: &mut [u32; 16]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
    }

    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn and_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or_u(self, a: Self::U, b: Self::U) -> Self::U {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn shift_left(self, value: Self::U, by: u32) -> Self::U {
        unsafe { _mm512_sll_epi32(value, _mm_cvtsi32_si128(by as i32)) }
    }

    #[inline(always)]
    fn round_pairs(self, even: Self::F, odd: Self::F) -> Self::U {
        if !BF16 {
            return round_pairs(self, even, odd);
        }
        /// Lane `i` takes element `i` of the low half, then element `i` of the high one.
        const INTERLEAVE: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            order
        };
        unsafe {
            let halves = _mm512_cvtne2ps_pbh(odd, even);
            let halves = std::mem::transmute::<__m512bh, __m512i>(halves);
            _mm512_permutexvar_epi16(_mm512_loadu_si512(INTERLEAVE.as_ptr().cast()), halves)
        }
    }

    #[inline(always)]
    fn round_consecutive(self, [low, high]: [Self::F; 2]) -> Self::U {
        if !BF16 {
            let order = |from: i32| unsafe {
                let step =
                    _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
                _mm512_add_epi32(step, _mm512_set1_epi32(from))
            };
            let every_other = |from| unsafe { _mm512_permutex2var_ps(low, order(from), high) };
            return round_pairs(self, every_other(0), every_other(1));
        }
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::U; 16]) -> [Self::U; 16] {
        // Blocks of one lane, then of two, are exchanged within quarters; then the quarters themselves.
        let mut a = rows;
        for i in (0..16).step_by(2) {
            (a[i], a[i + 1]) = unsafe {
                (
                    _mm512_unpacklo_epi32(rows[i], rows[i + 1]),
                    _mm512_unpackhi_epi32(rows[i], rows[i + 1]),
                )
            };
        }
        let mut b = a;
        for i in (0..16).step_by(4) {
            for j in 0..2 {
                (b[i + 2 * j], b[i + 2 * j + 1]) = unsafe {
                    (
                        _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]),
                        _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]),
                    )
                };
            }
        }
        let mut out = b;
        for j in 0..4 {
            unsafe {
                let low = _mm512_shuffle_i32x4::<0x88>(b[j], b[j + 4]);
                let high = _mm512_shuffle_i32x4::<0xdd>(b[j], b[j + 4]);
                let low_2 = _mm512_shuffle_i32x4::<0x88>(b[j + 8], b[j + 12]);
                let high_2 = _mm512_shuffle_i32x4::<0xdd>(b[j + 8], b[j + 12]);
                out[j] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
                out[j + 8] = _mm512_shuffle_i32x4::<0xdd>(low, low_2);
                out[j + 4] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
                out[j + 12] = _mm512_shuffle_i32x4::<0xdd>(high, high_2);
            }
        }
        out
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self::U, b: Self::U, sum: Self::F) -> Self::F {
        if !BF16 {
            return dot_pairs(self, a, b, sum);
        }
        unsafe {
            let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
            _mm512_dpbf16_ps(sum, pairs(a), pairs(b))
        }
    }

    #[inline(always)]
    fn dot_bytes(self, a: Self::U, b: Self::U, sum: Self::U) -> Self::U {
        unsafe {
            if BF16 {
                return _mm512_dpbusd_epi32(sum, a, b);
            }
            let low = _mm512_set1_epi16(0xff);
            let even = _mm512_madd_epi16(
                _mm512_and_si512(a, low),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b));
            _mm512_add_epi32(sum, _mm512_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    fn converted(self, value: Self::U) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(value) }
    }

    #[inline(always)]
    fn shift_right(self, value: Self::U, by: u32) -> Self::U {
        unsafe { _mm512_srl_epi32(value, _mm_cvtsi32_si128(by as i32)) }
    }

    #[inline(always)]
    fn add_where_less(self, index: Self::U, step: u32, a: Self::F, b: Self::F) -> Self::U {
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
            _mm512_mask_add_epi32(index, less, index, self.splat_u(step))
        }
    }

    #[inline(always)]
    fn max_magnitude(self, max: Self::U, value: Self::F) -> Self::U {
        unsafe {
            let magnitude = _mm512_and_si512(_mm512_castps_si512(value), self.splat_u(0x7fff_ffff));
            _mm512_max_epu32(max, magnitude)
        }
    }

    #[inline(always)]
    fn max_lane(self, value: Self::U) -> u32 {
        unsafe { _mm512_reduce_max_epu32(value) }
    }

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> Self::Table {
        self.load(values)
    }

    #[inline(always)]
    fn lookup_halves(self, table: &[u16; 16], codes: Self::U) -> Self::U {
        unsafe {
            // Twice, because the instruction looks up five bits.
            let table = _mm512_broadcast_i64x4(_mm256_loadu_si256(table.as_ptr().cast()));
            _mm512_permutexvar_epi16(codes, table)
        }
    }

    #[inline(always)]
    fn lookup(self, table: Self::Table, codes: Self::U) -> Self::F {
        unsafe { _mm512_permutexvar_ps(codes, table) }
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Self::U {
        unsafe {
            let pair = _mm512_castsi128_si512(_mm_loadl_epi64(words.as_ptr().cast()));
            let spread = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
            let shifts = _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
            _mm512_srlv_epi32(_mm512_permutexvar_epi32(spread, pair), shifts)
        }
    }

    #[inline(always)]
    fn pack(self, codes: [Self::U; 2]) -> [u32; 4] {
        unsafe {
            let (low, high) = (
                _mm512_cvtepi32_epi8(codes[0]),
                _mm512_cvtepi32_epi8(codes[1]),
            );
            let bytes = _mm256_set_m128i(high, low);
            // Each pair of bytes becomes `first + 16 * second`.
            let pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x1001));
            let mut words = [0; 4];
            _mm_storeu_si128(words.as_mut_ptr().cast(), _mm256_cvtepi16_epi8(pairs));
            words
        }
    }

    #[inline(always)]
    fn quarters(self, values: &[f32; 4]) -> Self::F {
        unsafe {
            let values = _mm512_castps128_ps512(_mm_loadu_ps(values.as_ptr()));
            let lanes = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
            _mm512_permutexvar_ps(lanes, values)
        }
    }

    #[inline(always)]
    fn widen(self, bytes: [u32; 4]) -> Self::U {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_halves(self, halves: &[u16; 16]) -> Self::U {
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn round(self, value: Self::F) -> [u16; 16] {
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m256bh, [u16; 16]>(_mm512_cvtneps_pbh(value));
            }
            let words = round_pairs(self, value, self.splat(0.0));
            std::mem::transmute::<__m256i, [u16; 16]>(_mm512_cvtepi32_epi16(words))
        }
    }

    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Self::U) -> Self::F {
        unsafe { _mm512_i32gather_ps::<4>(index, from.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn gather_u(self, from: &[u32], index: Self::U) -> Self::U {
        unsafe { _mm512_i32gather_epi32::<4>(index, from.as_ptr().cast()) }
    }
}

/// Sums the lanes of four vectors in the order in which `_mm512_reduce_add_ps` does, with half of its instructions.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn four_sums_of([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    unsafe {
        let ab = _mm256_castps_pd(fours_of(eight_of(a), eight_of(b)));
        let cd = _mm256_castps_pd(fours_of(eight_of(c), eight_of(d)));
        let low = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
        let pairs = _mm256_add_ps(low, _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
        let mut sums = [0.0; 8];
        let added = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
        _mm256_storeu_ps(sums.as_mut_ptr(), added);
        [sums[0], sums[4], sums[2], sums[6]]
    }
}

/// Adds the halves of a vector onto each other.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn eight_of(value: __m512) -> __m256 {
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(value));
        _mm256_add_ps(_mm512_castps512_ps256(value), _mm256_castpd_ps(high))
    }
}

/// Adds the halves of each of two vectors onto each other.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn fours_of(a: __m256, b: __m256) -> __m256 {
    unsafe {
        let low = _mm256_permute2f128_ps::<0x20>(a, b);
        _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b))
    }
}
