//! NEON, with the dot products of bytes (`sdot`) where `DOT` says so: four registers are 16 lanes, and four `tbl`, one for each byte of
//! an f32, are a 16-entry table.

// SAFETY, for every block below: NEON is part of every AArch64 target that has the standard library, so that nothing need
// be detected; a `Neon<true>` exists only on machines that have the dot products (see `new`), and each method is inlined into a
// function compiled for them. Memory is touched through arrays of the right size.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

use super::{Simd, add_byte_products, dot_bytes};

#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// # Safety
    /// The machine has the dot products of bytes if `DOT`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Returns `sum` and the products of the four signed bytes that share a lane.
///
/// # Safety
/// The machine has the dot products of bytes, and the caller is compiled for them.
#[inline(always)]
unsafe fn dot_signed(a: uint32x4_t, b: uint32x4_t, mut sum: uint32x4_t) -> uint32x4_t {
    // The standard library's name for it is not stable.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Returns the low bytes of 16 lanes.
#[inline(always)]
fn narrow(lanes: [uint32x4_t; 4]) -> uint8x16_t {
    unsafe {
        let low = vmovn_high_u32(vmovn_u32(lanes[0]), lanes[1]);
        let high = vmovn_high_u32(vmovn_u32(lanes[2]), lanes[3]);
        vmovn_high_u16(vmovn_u16(low), high)
    }
}

/// Returns 16 bytes, one a lane.
#[inline(always)]
fn widen(bytes: uint8x16_t) -> [uint32x4_t; 4] {
    unsafe {
        let low = vmovl_u8(vget_low_u8(bytes));
        let high = vmovl_high_u8(bytes);
        [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ]
    }
}

/// Looks up 16 codes below 16, and puts the four bytes of each value together.
#[inline(always)]
fn lookup_16(table: [uint8x16_t; 4], codes: uint8x16_t) -> [float32x4_t; 4] {
    unsafe {
        let [a, b, c, d] = table.map(|byte| vqtbl1q_u8(byte, codes));
        let halves = |a, b| {
            [
                vreinterpretq_u16_u8(vzip1q_u8(a, b)),
                vreinterpretq_u16_u8(vzip2q_u8(a, b)),
            ]
        };
        let ([low, high], [low_2, high_2]) = (halves(a, b), halves(c, d));
        [
            vreinterpretq_f32_u16(vzip1q_u16(low, low_2)),
            vreinterpretq_f32_u16(vzip2q_u16(low, low_2)),
            vreinterpretq_f32_u16(vzip1q_u16(high, high_2)),
            vreinterpretq_f32_u16(vzip2q_u16(high, high_2)),
        ]
    }
}

/// Rounds to bf16, to nearest and ties to even: the high halves of the lanes, with remainders below them.
#[inline(always)]
fn round_4(value: float32x4_t) -> uint32x4_t {
    unsafe {
        let bits = vreinterpretq_u32_f32(value);
        // Adds bit 16, the lowest of those that stay.
        vsraq_n_u32::<31>(
            vaddq_u32(bits, vdupq_n_u32(0x7fff)),
            vshlq_n_u32::<15>(bits),
        )
    }
}

/// Returns the high halves of 8 lanes.
#[inline(always)]
fn high_halves(low: uint32x4_t, high: uint32x4_t) -> uint16x8_t {
    unsafe { vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high)) }
}

/// Transposes: lane `i` of register `j` becomes lane `j` of register `i`.
#[inline(always)]
fn transpose_4(rows: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    unsafe {
        let pairs = |a, b| {
            [
                vreinterpretq_u64_u32(vtrn1q_u32(a, b)),
                vreinterpretq_u64_u32(vtrn2q_u32(a, b)),
            ]
        };
        let ([even, odd], [even_2, odd_2]) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
        [
            vreinterpretq_u32_u64(vtrn1q_u64(even, even_2)),
            vreinterpretq_u32_u64(vtrn1q_u64(odd, odd_2)),
            vreinterpretq_u32_u64(vtrn2q_u64(even, even_2)),
            vreinterpretq_u32_u64(vtrn2q_u64(odd, odd_2)),
        ]
    }
}

#[inline(always)]
fn load_4(words: &[u32; 4]) -> uint32x4_t {
    unsafe { vld1q_u32(words.as_ptr()) }
}

/// Returns the words of up to 8 rows, one a lane.
#[inline(always)]
fn load_rows<const ROWS: usize>(x: &[u32; ROWS]) -> [uint32x4_t; 2] {
    let mut lanes = [0; 8];
    lanes[..ROWS].copy_from_slice(x);
    unsafe { [vld1q_u32(lanes.as_ptr()), vld1q_u32(lanes[4..].as_ptr())] }
}

/// Adds `weights` times the lane of `x` that is its row's to register `i` of vector `v` of each row.
#[inline(always)]
fn add_to_rows<const ROWS: usize, const VECTORS: usize>(
    totals: &mut [[[float32x4_t; 4]; VECTORS]; ROWS],
    [v, i]: [usize; 2],
    x: [uint32x4_t; 2],
    weights: uint32x4_t,
) {
    for (row, totals) in totals.iter_mut().enumerate() {
        unsafe {
            let x = vreinterpretq_f32_u32(x[row / 4]);
            // A lane given by a constant is multiplied from where it is.
            let x = match row % 4 {
                0 => vdupq_laneq_f32::<0>(x),
                1 => vdupq_laneq_f32::<1>(x),
                2 => vdupq_laneq_f32::<2>(x),
                _ => vdupq_laneq_f32::<3>(x),
            };
            totals[v][i] = vfmaq_f32(totals[v][i], vreinterpretq_f32_u32(weights), x);
        }
    }
}

/// Returns the high halves, in their place: the odd ones of pairs of bf16 as f32.
#[inline(always)]
fn odd(pairs: uint32x4_t) -> uint32x4_t {
    unsafe { vandq_u32(pairs, vdupq_n_u32(0xffff_0000)) }
}

/// Returns the low halves moved to the high ones: the even ones of pairs of bf16 as f32.
#[inline(always)]
fn even(pairs: uint32x4_t) -> uint32x4_t {
    unsafe { vshlq_n_u32::<16>(pairs) }
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = [float32x4_t; 4];
    type U = [uint32x4_t; 4];
    /// The first bytes of all entries, the second ones, and so on.
    type Table = [uint8x16_t; 4];

    /// The sums of 5 rows take 20 of the 32 registers. With 24 the others no longer hold a value of k in bf16, whose weights are twice
    /// as many as they were loaded: the compiler spills.
    const MR: usize = 5;
    const NR: usize = 16;

    const BYTES_ZERO: u8 = if DOT { 0 } else { 128 };

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        from_fn(|i| unsafe { vld1q_f32(from[4 * i..].as_ptr()) })
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        for (i, value) in value.into_iter().enumerate() {
            unsafe { vst1q_f32(to[4 * i..].as_mut_ptr(), value) }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }

    #[inline(always)]
    fn sum(self, [a, b, c, d]: Self::F) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            vaddv_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }

    #[inline(always)]
    fn bits(self, value: Self::F) -> Self::U {
        value.map(|value| unsafe { vreinterpretq_u32_f32(value) })
    }

    #[inline(always)]
    fn float(self, bits: Self::U) -> Self::F {
        bits.map(|bits| unsafe { vreinterpretq_f32_u32(bits) })
    }

    #[inline(always)]
    fn splat_u(self, value: u32) -> Self::U {
        unsafe { [vdupq_n_u32(value); 4] }
    }

    #[inline(always)]
    fn load_u(self, from: &[u32; 16]) -> Self::U {
        from_fn(|i| unsafe { vld1q_u32(from[4 * i..].as_ptr()) })
    }

    #[inline(always)]
    fn store_u(self, value: Self::U, to: &mut [u32; 16]) {
        for (i, value) in value.into_iter().enumerate() {
            unsafe { vst1q_u32(to[4 * i..].as_mut_ptr(), value) }
        }
    }

    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        from_fn(|i| unsafe { vaddq_u32(a[i], b[i]) })
    }

    #[inline(always)]
    fn and_u(self, a: Self::U, b: Self::U) -> Self::U {
        from_fn(|i| unsafe { vandq_u32(a[i], b[i]) })
    }

    #[inline(always)]
    fn or_u(self, a: Self::U, b: Self::U) -> Self::U {
        from_fn(|i| unsafe { vorrq_u32(a[i], b[i]) })
    }

    #[inline(always)]
    fn shift_right(self, value: Self::U, by: u32) -> Self::U {
        value.map(|value| unsafe { vshlq_u32(value, vdupq_n_s32(-(by as i32))) })
    }

    #[inline(always)]
    fn shift_left(self, value: Self::U, by: u32) -> Self::U {
        value.map(|value| unsafe { vshlq_u32(value, vdupq_n_s32(by as i32)) })
    }

    #[inline(always)]
    fn add_where_less(self, index: Self::U, step: u32, a: Self::F, b: Self::F) -> Self::U {
        from_fn(|i| unsafe {
            let step = vandq_u32(vcltq_f32(a[i], b[i]), vdupq_n_u32(step));
            vaddq_u32(index[i], step)
        })
    }

    #[inline(always)]
    fn max_magnitude(self, max: Self::U, value: Self::F) -> Self::U {
        from_fn(|i| unsafe { vmaxq_u32(max[i], vreinterpretq_u32_f32(vabsq_f32(value[i]))) })
    }

    #[inline(always)]
    fn max_lane(self, [a, b, c, d]: Self::U) -> u32 {
        unsafe { vmaxvq_u32(vmaxq_u32(vmaxq_u32(a, b), vmaxq_u32(c, d))) }
    }

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> Self::Table {
        let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(values.as_ptr().cast()) };
        [a, b, c, d]
    }

    #[inline(always)]
    fn lookup(self, table: Self::Table, codes: Self::U) -> Self::F {
        lookup_16(table, unsafe { vandq_u8(narrow(codes), vdupq_n_u8(15)) })
    }

    /// Two codes are a byte: they are narrowed together.
    #[inline(always)]
    fn lookup_pair(self, table: Self::Table, words: Self::U, pair: u32) -> [Self::F; 2] {
        let pairs = narrow(self.shift_right(words, 8 * pair));
        let (first, second) = unsafe { (vandq_u8(pairs, vdupq_n_u8(15)), vshrq_n_u8::<4>(pairs)) };
        [lookup_16(table, first), lookup_16(table, second)]
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Self::U {
        unsafe {
            let pairs = vld1_u8(words.as_ptr().cast());
            let (first, second) = (vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8::<4>(pairs));
            widen(vcombine_u8(
                vzip1_u8(first, second),
                vzip2_u8(first, second),
            ))
        }
    }

    #[inline(always)]
    fn pack(self, [low, high]: [Self::U; 2]) -> [u32; 4] {
        let (low, high) = (narrow(low), narrow(high));
        let mut words = [0; 4];
        unsafe {
            let pairs = vsliq_n_u8::<4>(vuzp1q_u8(low, high), vuzp2q_u8(low, high));
            vst1q_u8(words.as_mut_ptr().cast(), pairs);
        }
        words
    }

    #[inline(always)]
    fn widen(self, bytes: [u32; 4]) -> Self::U {
        widen(unsafe { vld1q_u8(bytes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn widen_halves(self, halves: &[u16; 16]) -> Self::U {
        from_fn(|i| unsafe { vmovl_u16(vld1_u16(halves[4 * i..].as_ptr())) })
    }

    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Self::U) -> Self::F {
        let mut lanes = [0; 16];
        self.store_u(index, &mut lanes);
        self.load(&lanes.map(|i| unsafe { *from.get_unchecked(i as usize) }))
    }

    #[inline(always)]
    unsafe fn gather_u(self, from: &[u32], index: Self::U) -> Self::U {
        let mut lanes = [0; 16];
        self.store_u(index, &mut lanes);
        self.load_u(&lanes.map(|i| unsafe { *from.get_unchecked(i as usize) }))
    }

    #[inline(always)]
    fn round_pairs(self, even: Self::F, odd: Self::F) -> Self::U {
        from_fn(|i| unsafe { vsriq_n_u32::<16>(round_4(odd[i]), round_4(even[i])) })
    }

    #[inline(always)]
    fn round(self, value: Self::F) -> [u16; 16] {
        let [a, b, c, d] = value.map(round_4);
        let mut halves = [0; 16];
        unsafe {
            vst1q_u16(halves.as_mut_ptr(), high_halves(a, b));
            vst1q_u16(halves[8..].as_mut_ptr(), high_halves(c, d));
        }
        halves
    }

    #[inline(always)]
    fn round_consecutive(self, values: [Self::F; 2]) -> Self::U {
        from_fn(|i| {
            let half = values[i / 2];
            let [low, high] = [half[i % 2 * 2], half[i % 2 * 2 + 1]].map(round_4);
            unsafe { vreinterpretq_u32_u16(high_halves(low, high)) }
        })
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::U; 16]) -> [Self::U; 16] {
        let mut out = rows;
        for i in 0..4 {
            for j in 0..4 {
                let block = transpose_4(from_fn(|row| rows[4 * i + row][j]));
                for (row, lanes) in block.into_iter().enumerate() {
                    out[4 * j + row][i] = lanes;
                }
            }
        }
        out
    }

    // One register of weights after another meets all rows, and rows stay lanes of a register: that needs fewer registers
    // than whole vectors of both.

    #[inline(always)]
    fn add_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::F; VECTORS]; ROWS],
    ) {
        let x = load_rows(x);
        for (v, weights) in weights.iter().enumerate() {
            for (i, weights) in weights.as_chunks().0.iter().enumerate() {
                let weights = load_4(weights);
                add_to_rows(totals, [v, i], x, weights);
            }
        }
    }

    #[inline(always)]
    fn add_pair_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::F; VECTORS]; ROWS],
    ) {
        let x = load_rows(x);
        let (x_even, x_odd) = (x.map(even), x.map(odd));
        for (v, weights) in weights.iter().enumerate() {
            for (i, weights) in weights.as_chunks().0.iter().enumerate() {
                let weights = load_4(weights);
                add_to_rows(totals, [v, i], x_even, even(weights));
                add_to_rows(totals, [v, i], x_odd, odd(weights));
            }
        }
    }

    /// Of bytes that are less by 128, and so signed, with what that takes off.
    #[inline(always)]
    fn dot_bytes(self, a: Self::U, b: Self::U, sum: Self::U) -> Self::U {
        if !DOT {
            return dot_bytes(self, a, b, sum);
        }
        let mut sums = sum;
        for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
            // A loop: a closure would be compiled on its own, without the instruction.
            unsafe {
                let top = vdupq_n_u32(0x8080_8080);
                let taken_off = dot_signed(top, b, vdupq_n_u32(0));
                *sum = vsubq_u32(dot_signed(veorq_u32(a, top), b, *sum), taken_off);
            }
        }
        sums
    }

    #[inline(always)]
    fn add_byte_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::U; VECTORS]; ROWS],
    ) {
        if !DOT {
            return add_byte_products(self, x, weights, totals);
        }
        for (v, weights) in weights.iter().enumerate() {
            for (i, weights) in weights.as_chunks().0.iter().enumerate() {
                let weights = load_4(weights);
                for (x, totals) in x.iter().zip(&mut *totals) {
                    let x = unsafe { vdupq_n_u32(*x) };
                    totals[v][i] = unsafe { dot_signed(weights, x, totals[v][i]) };
                }
            }
        }
    }

    #[inline(always)]
    fn converted(self, value: Self::U) -> Self::F {
        value.map(|value| unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(value)) })
    }

    /// The same search with ranks of one byte, which need neither be narrowed nor widened between its steps.
    #[inline(always)]
    fn rank(self, midpoints: Self::Table, value: Self::F) -> Self::U {
        let mut rank = unsafe { vdupq_n_u8(0) };
        for step in [8, 4, 2, 1] {
            unsafe {
                let midpoint = lookup_16(midpoints, vaddq_u8(rank, vdupq_n_u8(step - 1)));
                let less = narrow(from_fn(|i| vcltq_f32(midpoint[i], value[i])));
                rank = vaddq_u8(rank, vandq_u8(less, vdupq_n_u8(step)));
            }
        }
        widen(rank)
    }
}
