//! Sixteen lanes of f32 and u32 on each instruction set, and the choice between them at run time ([`Isa`]).
//!
//! A kernel is written once, generic over [`Simd`], and compiled once per instruction set by [`kernel!`]: in the operations
//! of [`Simd`], or as plain loops that the compiler vectorises ([`math`]). Kernels that only multiply, add and compare
//! give the same bits on all of them; those that use [`Simd::mul_add`] or [`math::mul_add`] need not, because the
//! portable one may have no fused instruction.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
pub(crate) mod math;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use isa::Level;
pub use isa::{ISA_VARIABLE, Isa, IsaError, isa};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// Defines functions that take an [`Isa`] and run a generic kernel compiled for it: an `#[inline(always)]` function
/// whose first argument is the [`Simd`] to use, by its name, or a body that knows the instruction set as a type.
///
/// The first form is for kernels written in the operations of [`Simd`], the second for plain loops that the compiler
/// vectorises, which are made of what `math` has. Enabling an instruction set lets the compiler take wider registers,
/// never another rounding or order: Rust does not contract `a * b + c`, so a body rounds differently only where it
/// asks [`Simd::FUSED`].
macro_rules! kernel {
    () => {};
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident $(<$($param:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
            = $generic:expr;
        $($rest:tt)*
    ) => {
        $crate::simd::kernel! {
            @dispatch []
            $(#[$doc])*
            $vis fn $name $(<$($param: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? = $generic;
        }
        $crate::simd::kernel! { $($rest)* }
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident <$simd:ident: Simd> ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
        $($rest:tt)*
    ) => {
        $crate::simd::kernel! {
            @dispatch [
                #[inline(always)]
                #[allow(clippy::too_many_arguments)]
                fn body<$simd: $crate::simd::Simd>(_: $simd, $($arg: $ty),*) $(-> $ret)? $body
            ]
            $(#[$doc])*
            $vis fn $name ($($arg: $ty),*) $(-> $ret)? = body;
        }
        $crate::simd::kernel! { $($rest)* }
    };
    (
        @dispatch [$($item:item)?]
        $(#[$doc:meta])*
        $vis:vis fn $name:ident $(<$($param:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
            = $generic:expr;
    ) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($param: $bound),+>)? (isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            $($item)?
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
            fn avx512_bf16 $(<$($param: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only reached on, machines with AVX-512, its BF16 and its VNNI.
                $generic(unsafe { $crate::simd::Avx512::<true>::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
            fn avx512 $(<$($param: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only reached on, machines with AVX-512.
                $generic(unsafe { $crate::simd::Avx512::<false>::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($param: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only reached on, machines with AVX2 and FMA.
                $generic(unsafe { $crate::simd::Avx2::new() }, $($arg),*)
            }
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            #[target_feature(enable = "neon,dotprod")]
            fn neon_dot $(<$($param: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only reached on, machines with the dot products of bytes.
                $generic(unsafe { $crate::simd::Neon::<true>::new() }, $($arg),*)
            }
            match isa.0 {
                // SAFETY: an `Isa` of this level is made only after its features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512Bf16 => unsafe { avx512_bf16 $(::<$($param),+>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512 $(::<$($param),+>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$($param),+>)? ($($arg),*) },
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                // SAFETY: as above.
                $crate::simd::Level::NeonDot => unsafe { neon_dot $(::<$($param),+>)? ($($arg),*) },
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                $crate::simd::Level::Neon => {
                    // SAFETY: nothing is asked of the machine.
                    $generic(unsafe { $crate::simd::Neon::<false>::new() }, $($arg),*)
                }
                $crate::simd::Level::Portable => {
                    $generic($crate::simd::Portable, $($arg),*)
                }
            }
        }
    };
}
pub(crate) use kernel;

/// The operations kernels are made of. A value of the type is the proof that the instructions exist.
pub trait Simd: Copy {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of u32.
    type U: Copy;
    /// A 16-entry table held in registers.
    type Table: Copy;

    /// Whether a multiplication and an addition are one instruction; where they are not, [`f32::mul_add`] is a slow
    /// library call.
    const FUSED: bool = true;

    /// Most rows of the micro-tile that a matrix product keeps in registers.
    const MR: usize;
    /// Most columns of the micro-tile: one vector or two.
    const NR: usize;

    /// The byte that stands for 0 in the weights of [`Simd::add_byte_products`]: 128 where an instruction multiplies unsigned numbers by
    /// signed ones, 0 where it multiplies signed ones.
    const BYTES_ZERO: u8 = 128;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; 16]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; 16]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a * b + c`, fused where the machine can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Sums the lanes in a fixed order: halves onto each other.
    fn sum(self, value: Self::F) -> f32;
    /// Sums the lanes of each of several, as [`Simd::sum`] does.
    #[inline(always)]
    fn sums<const N: usize>(self, values: [Self::F; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = self.sum(value);
        }
        sums
    }

    /// Returns the same lanes as bit patterns.
    fn bits(self, value: Self::F) -> Self::U;
    /// Reads bit patterns as the numbers they stand for.
    fn float(self, bits: Self::U) -> Self::F;
    fn splat_u(self, value: u32) -> Self::U;
    fn load_u(self, from: &[u32; 16]) -> Self::U;
    fn store_u(self, value: Self::U, to: &mut [u32; 16]);
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U;
    fn and_u(self, a: Self::U, b: Self::U) -> Self::U;
    fn or_u(self, a: Self::U, b: Self::U) -> Self::U;
    /// Shifts every lane right by the same amount.
    fn shift_right(self, value: Self::U, by: u32) -> Self::U;
    /// Shifts every lane left by the same amount.
    fn shift_left(self, value: Self::U, by: u32) -> Self::U;
    /// Returns `index + step` in the lanes where `a < b`, else `index`.
    fn add_where_less(self, index: Self::U, step: u32, a: Self::F, b: Self::F) -> Self::U;
    /// Returns the lane-wise maximum of `max` and the magnitudes of `value`, as bit patterns. NaN is above infinity.
    fn max_magnitude(self, max: Self::U, value: Self::F) -> Self::U;
    /// Returns the largest lane.
    fn max_lane(self, value: Self::U) -> u32;

    fn table(self, values: &[f32; 16]) -> Self::Table;
    /// Looks up the low 4 bits of every lane; the others are ignored.
    fn lookup(self, table: Self::Table, codes: Self::U) -> Self::F;

    /// Looks up the codes `2 * pair` and `2 * pair + 1` of the 8 that every lane holds, the lowest bits first.
    #[inline(always)]
    fn lookup_pair(self, table: Self::Table, words: Self::U, pair: u32) -> [Self::F; 2] {
        [
            self.lookup(table, self.shift_right(words, 8 * pair)),
            self.lookup(table, self.shift_right(words, 8 * pair + 4)),
        ]
    }

    /// Looks up the low 4 bits of both halves of every lane; the others are ignored.
    #[inline(always)]
    fn lookup_halves(self, table: &[u16; 16], codes: Self::U) -> Self::U {
        let mut lanes = [0; 16];
        self.store_u(codes, &mut lanes);
        for lane in &mut lanes {
            let low = table[(*lane & 15) as usize];
            let high = table[(*lane >> 16 & 15) as usize];
            *lane = u32::from(low) | u32::from(high) << 16;
        }
        self.load_u(&lanes)
    }

    /// Returns the 16 codes of two words, one a lane in the low 4 bits, with other bits above them.
    fn codes(self, words: &[u32; 2]) -> Self::U;
    /// Packs 32 codes, one a lane with nothing above them, into four words.
    fn pack(self, codes: [Self::U; 2]) -> [u32; 4];
    /// Returns each of four values in four lanes.
    #[inline(always)]
    fn quarters(self, values: &[f32; 4]) -> Self::F {
        self.load(&std::array::from_fn(|i| values[i / 4]))
    }
    /// Widens 16 bytes.
    fn widen(self, bytes: [u32; 4]) -> Self::U;
    /// Widens 16 halves of a word.
    fn widen_halves(self, halves: &[u16; 16]) -> Self::U;

    /// Returns `from[index]` in every lane.
    ///
    /// # Safety
    /// Every lane of `index` is below `from.len()`, and that is at most `i32::MAX`.
    unsafe fn gather(self, from: &[f32], index: Self::U) -> Self::F;
    /// Returns `from[index]` in every lane.
    ///
    /// # Safety
    /// As for [`Simd::gather`].
    unsafe fn gather_u(self, from: &[u32], index: Self::U) -> Self::U;

    /// Rounds to bf16, to nearest and ties to even: `even` into the low half of every lane, `odd` into the high one.
    ///
    /// A NaN stays one unless its whole payload is set, which no instruction makes; subnormal numbers may become 0.
    #[inline(always)]
    fn round_pairs(self, even: Self::F, odd: Self::F) -> Self::U {
        round_pairs(self, even, odd)
    }

    /// Rounds 16 values to bf16, as [`Simd::round_pairs`] does.
    #[inline(always)]
    fn round(self, value: Self::F) -> [u16; 16] {
        let mut lanes = [0; 16];
        self.store_u(self.round_pairs(value, self.splat(0.0)), &mut lanes);
        lanes.map(|lane| lane as u16)
    }

    /// Rounds 32 consecutive values to bf16, as [`Simd::round_pairs`] does: two of them a lane.
    #[inline(always)]
    fn round_consecutive(self, values: [Self::F; 2]) -> Self::U {
        let mut lanes = [[0.0; 16]; 2];
        self.store(values[0], &mut lanes[0]);
        self.store(values[1], &mut lanes[1]);
        let lanes = lanes.as_flattened();
        let every_other = |from: usize| self.load(&std::array::from_fn(|i| lanes[2 * i + from]));
        self.round_pairs(every_other(0), every_other(1))
    }

    /// Transposes: lane `i` of vector `j` becomes lane `j` of vector `i`.
    #[inline(always)]
    fn transpose(self, rows: [Self::U; 16]) -> [Self::U; 16] {
        let mut lanes = [[0; 16]; 16];
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            self.store_u(row, lanes);
        }
        std::array::from_fn(|i| self.load_u(&std::array::from_fn(|j| lanes[j][i])))
    }

    /// Returns `sum` and the products of the two bf16 that share a lane, in f32; subnormal numbers may count as 0.
    #[inline(always)]
    fn dot_pairs(self, a: Self::U, b: Self::U, sum: Self::F) -> Self::F {
        dot_pairs(self, a, b, sum)
    }

    /// Returns `sum` and the products of the four bytes that share a lane, those of `a` unsigned and those of `b` signed, as
    /// integers of 32 bits.
    #[inline(always)]
    fn dot_bytes(self, a: Self::U, b: Self::U, sum: Self::U) -> Self::U {
        dot_bytes(self, a, b, sum)
    }

    /// Converts signed integers of 32 bits to the nearest numbers, ties to even.
    #[inline(always)]
    fn converted(self, value: Self::U) -> Self::F {
        let mut lanes = [0; 16];
        self.store_u(value, &mut lanes);
        self.load(&lanes.map(|lane| lane.cast_signed() as f32))
    }

    /// Adds to each row of `totals` its element of `x` times `weights`: one value of k in the micro-kernel. Both are f32, as
    /// bit patterns.
    #[inline(always)]
    fn add_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::F; VECTORS]; ROWS],
    ) {
        let mut loaded = [self.splat(0.0); VECTORS];
        for (loaded, weights) in loaded.iter_mut().zip(weights) {
            *loaded = self.float(self.load_u(weights));
        }
        for (x, totals) in x.iter().zip(totals) {
            let x = self.splat(f32::from_bits(*x));
            for (total, weights) in totals.iter_mut().zip(loaded) {
                *total = self.mul_add(x, weights, *total);
            }
        }
    }

    /// Does [`Simd::add_products`] of pairs of bf16, by [`Simd::dot_pairs`].
    #[inline(always)]
    fn add_pair_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::F; VECTORS]; ROWS],
    ) {
        let mut loaded = [self.splat_u(0); VECTORS];
        for (loaded, weights) in loaded.iter_mut().zip(weights) {
            *loaded = self.load_u(weights);
        }
        for (x, totals) in x.iter().zip(totals) {
            let x = self.splat_u(*x);
            for (total, weights) in totals.iter_mut().zip(loaded) {
                *total = self.dot_pairs(x, weights, *total);
            }
        }
    }

    /// Does [`Simd::add_products`] of fours of bytes, as integers of 32 bits; those of `x` are signed, and those of `weights` are more
    /// by [`Simd::BYTES_ZERO`].
    #[inline(always)]
    fn add_byte_products<const ROWS: usize, const VECTORS: usize>(
        self,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[Self::U; VECTORS]; ROWS],
    ) {
        add_byte_products(self, x, weights, totals);
    }

    /// Counts, for each lane, the rising `midpoints` strictly below it; there are 15, and the 16th entry is not looked at.
    #[inline(always)]
    fn rank(self, midpoints: Self::Table, value: Self::F) -> Self::U {
        let mut rank = self.splat_u(0);
        for step in [8, 4, 2, 1] {
            let midpoint = self.lookup(midpoints, self.add_u(rank, self.splat_u(step - 1)));
            rank = self.add_where_less(rank, step, midpoint, value);
        }
        rank
    }
}

/// The level of the caches that a line is asked for into.
#[derive(Clone, Copy)]
pub(crate) enum CacheLevel {
    First,
    Second,
}

/// Asks for the cache line of `values[at]`, which need not exist, ahead of its use.
#[inline(always)]
pub(crate) fn prefetch<T>(into: CacheLevel, values: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let address = values.as_ptr().wrapping_add(at).cast();
        // SAFETY: every processor of this architecture has the instructions, which read nothing the program sees and take any
        // address.
        unsafe {
            match into {
                CacheLevel::First => _mm_prefetch::<_MM_HINT_T0>(address),
                CacheLevel::Second => _mm_prefetch::<_MM_HINT_T1>(address),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (into, values, at);
}

/// Does [`Simd::round_pairs`] where there is no instruction for it.
#[inline(always)]
fn round_pairs<S: Simd>(s: S, even: S::F, odd: S::F) -> S::U {
    let round = |value| {
        let bits = s.bits(value);
        let odd = s.and_u(s.shift_right(bits, 16), s.splat_u(1));
        s.add_u(s.add_u(bits, s.splat_u(0x7fff)), odd)
    };
    let high = s.and_u(round(odd), s.splat_u(0xffff_0000));
    s.or_u(s.shift_right(round(even), 16), high)
}

/// Does [`Simd::dot_pairs`] where there is no instruction for it.
#[inline(always)]
fn dot_pairs<S: Simd>(s: S, a: S::U, b: S::U, sum: S::F) -> S::F {
    let even = |pair| s.float(s.shift_left(pair, 16));
    let odd = |pair| s.float(s.and_u(pair, s.splat_u(0xffff_0000)));
    s.mul_add(odd(a), odd(b), s.mul_add(even(a), even(b), sum))
}

/// Does [`Simd::dot_bytes`] where there is no instruction for it.
#[inline(always)]
fn dot_bytes<S: Simd>(s: S, a: S::U, b: S::U, sum: S::U) -> S::U {
    let mut lanes = [[0; 16]; 3];
    for (lanes, value) in lanes.iter_mut().zip([a, b, sum]) {
        s.store_u(value, lanes);
    }
    let [a, b, mut sums] = lanes;
    for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
        for byte in 0..4 {
            let (a, b) = ((a >> (8 * byte)) as u8, (b >> (8 * byte)) as i8);
            *sum = sum.wrapping_add_signed(i32::from(a) * i32::from(b));
        }
    }
    s.load_u(&sums)
}

/// Does [`Simd::add_byte_products`] by [`Simd::dot_bytes`], of unsigned weights.
#[inline(always)]
fn add_byte_products<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    x: &[u32; ROWS],
    weights: &[[u32; 16]; VECTORS],
    totals: &mut [[S::U; VECTORS]; ROWS],
) {
    let mut loaded = [s.splat_u(0); VECTORS];
    for (loaded, weights) in loaded.iter_mut().zip(weights) {
        *loaded = s.load_u(weights);
    }
    for (x, totals) in x.iter().zip(totals) {
        let x = s.splat_u(*x);
        for (total, weights) in totals.iter_mut().zip(loaded) {
            *total = s.dot_bytes(weights, x, *total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Runs every integer operation and each lookup on patterns that reach all lanes.
    #[inline(always)]
    fn exercise<S: Simd>(s: S, seed: &[u32; 16]) -> Vec<u32> {
        let mut out = Vec::new();
        let mut take = |value: S::U| {
            let mut lanes = [0; 16];
            s.store_u(value, &mut lanes);
            out.extend(lanes);
        };
        let words = s.load_u(seed);
        let table: [f32; 16] = std::array::from_fn(|i| i as f32 * 1.5 - 7.0);
        let midpoints: [f32; 16] = std::array::from_fn(|i| i as f32 * 1.5 - 6.25);
        let mut lanes = [0.0; 16];
        for shift in [0, 4, 28] {
            let shifted = s.shift_right(words, shift);
            take(shifted);
            s.store(s.lookup(s.table(&table), shifted), &mut lanes);
            take(s.load_u(&lanes.map(f32::to_bits)));
            take(s.rank(s.table(&midpoints), s.load(&lanes)));
            let halves = std::array::from_fn(|i| (seed[i] >> 7) as u16);
            take(s.lookup_halves(&halves, shifted));
        }
        take(s.bits(s.load(&table)));
        take(s.or_u(s.and_u(words, s.splat_u(0xff00)), s.shift_left(words, 16)));
        let normal = seed.map(|word| f32::from_bits(word & 0xbfff_ffff | 0x2000_0000));
        let ties = normal.map(|value| f32::from_bits(value.to_bits() & 0xffff_0000 | 0x8000));
        take(s.round_pairs(s.load(&normal), s.load(&ties)));
        take(s.round_consecutive([s.load(&ties), s.load(&normal)]));
        let halves = s.round(s.load(&ties));
        take(s.load_u(&halves.map(u32::from)));
        take(s.widen_halves(&halves));
        let rows = std::array::from_fn(|i| s.add_u(words, s.splat_u(i as u32)));
        s.transpose(rows).into_iter().for_each(&mut take);
        let pair = s.codes(&[seed[3], seed[4]]);
        s.store(s.lookup(s.table(&table), pair), &mut lanes);
        take(s.load_u(&lanes.map(f32::to_bits)));
        take(s.widen([seed[0], seed[1], seed[2], seed[3]]));
        take(s.bits(s.quarters(&[normal[0], normal[1], normal[2], normal[3]])));
        for pair in 0..4 {
            let values = s.lookup_pair(s.table(&table), words, pair);
            values.into_iter().for_each(|value| take(s.bits(value)));
        }
        let low = seed.map(|word| word % 16);
        let high = seed.map(|word| word / 16 % 16);
        let packed = s.pack([s.load_u(&low), s.load_u(&high)]);
        let rotated = s.load_u(&seed.map(|word| word.rotate_left(13)));
        take(s.dot_bytes(words, rotated, s.load_u(&low)));
        take(s.bits(s.converted(words)));
        take(s.max_magnitude(s.splat_u(7), s.load(&seed.map(f32::from_bits))));
        // SAFETY: `low` is below 16 everywhere.
        take(unsafe { s.gather_u(seed, s.load_u(&low)) });
        out.extend(packed);
        out.push(s.max_lane(words));
        out
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, a: &[u32; 16], b: &[u32; 16], sum: &mut [f32; 16]) {
        s.store(s.dot_pairs(s.load_u(a), s.load_u(b), s.load(sum)), sum);
    }

    kernel! { fn dots(a: &[u32; 16], b: &[u32; 16], sum: &mut [f32; 16]) = dot; }

    #[test]
    fn pairs_are_multiplied_and_added() {
        let pair = |even: f32, odd: f32| {
            u32::from(bf16::from_f32(even).to_bits())
                | u32::from(bf16::from_f32(odd).to_bits()) << 16
        };
        let a = std::array::from_fn(|i| pair(i as f32, 0.5));
        let b = std::array::from_fn(|i| pair(3.0, i as f32 - 4.0));
        for isa in Isa::available() {
            let mut sum = [1.0; 16];
            dots(*isa, &a, &b, &mut sum);
            let expected = std::array::from_fn(|i| 1.0 + 3.0 * i as f32 + 0.5 * (i as f32 - 4.0));
            assert_eq!(sum, expected, "{isa:?}");
        }
    }

    /// One value of k of a micro-tile of 4 rows, and the same row by row: in f32 and in pairs of bf16.
    #[inline(always)]
    fn tile<S: Simd>(s: S, x: &[u32; 4], weights: &[[u32; 16]; 2]) -> [Vec<[f32; 16]>; 4] {
        let stored = |totals: [[S::F; 2]; 4]| {
            let stored = |total: &S::F| {
                let mut lanes = [0.0; 16];
                s.store(*total, &mut lanes);
                lanes
            };
            totals.as_flattened().iter().map(stored).collect()
        };
        let start = [[s.splat(0.5); 2]; 4];
        let mut totals = [start; 4];
        s.add_products(x, weights, &mut totals[0]);
        s.add_pair_products(x, weights, &mut totals[1]);
        for (row, x) in x.iter().enumerate() {
            for (v, weights) in weights.iter().enumerate() {
                let (x, weights) = (s.splat_u(*x), s.load_u(weights));
                totals[2][row][v] = s.mul_add(s.float(x), s.float(weights), start[row][v]);
                totals[3][row][v] = s.dot_pairs(x, weights, start[row][v]);
            }
        }
        totals.map(stored)
    }

    kernel! { fn tiles(x: &[u32; 4], weights: &[[u32; 16]; 2]) -> [Vec<[f32; 16]>; 4] = tile; }

    #[test]
    fn a_micro_tile_is_its_rows() {
        // Both halves of every word are ordinary numbers as bf16, and so is the word as f32.
        let mut state = 1u32;
        let mut word = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state ^ state >> 15) & 0x83ff_83ff | 0x3c00_3c00
        };
        let x = std::array::from_fn(|_| word());
        let weights = [[0; 16]; 2].map(|lanes| lanes.map(|_: u32| word()));
        for isa in Isa::available() {
            let [products, pair_products, by_row, pairs_by_row] = tiles(*isa, &x, &weights);
            assert_eq!(products, by_row, "{isa:?}");
            assert_eq!(pair_products, pairs_by_row, "{isa:?}");
        }
    }

    kernel! { fn exercised(seed: &[u32; 16]) -> Vec<u32> = exercise; }

    #[test]
    fn every_instruction_set_computes_the_same() {
        let mut state = 12345u32;
        for _ in 0..100 {
            let seed = std::array::from_fn(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                state ^ state >> 15
            });
            for isa in Isa::available() {
                assert_eq!(
                    exercised(*isa, &seed),
                    exercised(Isa::portable(), &seed),
                    "{isa:?}"
                );
            }
        }
    }
}
