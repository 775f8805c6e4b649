//! The products of the words of rows with what meets them, whatever the words stand for.
//!
//! Every word of a row is read once. Several rows are taken up together, so that `x` is loaded once for all of them and their sums do
//! not wait for each other; a row has the same bits whatever others stand beside it.
//!
//! Codes of 4 bits and `x` of bf16 meet in pairs: the values of a format's table are exact in bf16, or are rounded to it.

use super::{group_words, rows_taken};
use crate::blocks::codes::Codes;
use crate::element::Element;
use crate::simd::{CacheLevel, Simd, prefetch};

/// Words ahead of those in work that are asked for into the first-level cache: what is read until they come from memory.
const AHEAD: usize = 1024;
/// Words ahead that are asked for into the second-level cache, which waits for more lines at once.
pub(super) const FAR_AHEAD: usize = 2048;
/// The words of a row from which on words come faster through the second-level cache: on a Zen 4, rows of 2048 weights in 0.7 to 0.85
/// of the time and those of 1024 in 0.8 to 0.95, but those of 576 in 1.1 to 1.2.
const LONG_ROW: usize = 128;

/// What the codes of words give with what meets them.
pub(super) trait Products<S: Simd>: Copy {
    /// Weights in a word.
    const PER_WORD: usize;
    /// Vectors of `x` that meet a group of 16 words.
    const VECTORS: usize;

    /// Adds the products of a group of words of each of `ROWS` rows with what of `M` rows of `x` meets it, `VECTORS` bit patterns
    /// each.
    fn add<const M: usize, const ROWS: usize>(
        self,
        s: S,
        words: &[S::U; ROWS],
        x: &[[u32; 16]],
        sums: &mut [[S::F; M]; ROWS],
    );
}

/// Codes that stand for f32: a lane has one weight.
#[derive(Clone, Copy)]
pub(super) struct Single<C>(pub C);

impl<S: Simd, C: Codes<S>> Products<S> for Single<C> {
    const PER_WORD: usize = C::PER_WORD;
    const VECTORS: usize = C::PER_WORD;

    #[inline(always)]
    fn add<const M: usize, const ROWS: usize>(
        self,
        s: S,
        words: &[S::U; ROWS],
        x: &[[u32; 16]],
        sums: &mut [[S::F; M]; ROWS],
    ) {
        for pair in 0..C::PER_WORD / 2 {
            let mut weights = [[s.splat(0.0); 2]; ROWS];
            for (weights, words) in weights.iter_mut().zip(words) {
                *weights = self.0.pair(s, *words, pair as u32);
            }
            for of_pair in 0..2 {
                for (i, x) in x.chunks_exact(C::PER_WORD).enumerate() {
                    let x = s.float(s.load_u(&x[2 * pair + of_pair]));
                    for (weights, sums) in weights.iter().zip(&mut *sums) {
                        sums[i] = s.mul_add(weights[of_pair], x, sums[i]);
                    }
                }
            }
        }
    }
}

/// Codes of 4 bits that stand for bf16: a lane has two weights, `j` and `4 + j` of a word.
#[derive(Clone, Copy)]
pub(super) struct NibblePairs([u16; 16]);

impl NibblePairs {
    /// Takes the values of the codes, which are rounded.
    #[inline(always)]
    pub(super) fn new(values: &[f32; 16]) -> Self {
        let mut halves = [0; 16];
        for (half, value) in halves.iter_mut().zip(values) {
            *half = value.to_bf16_bits() as u16;
        }
        Self(halves)
    }
}

impl<S: Simd> Products<S> for NibblePairs {
    const PER_WORD: usize = 8;
    const VECTORS: usize = 4;

    #[inline(always)]
    fn add<const M: usize, const ROWS: usize>(
        self,
        s: S,
        words: &[S::U; ROWS],
        x: &[[u32; 16]],
        sums: &mut [[S::F; M]; ROWS],
    ) {
        for j in 0..<Self as Products<S>>::VECTORS {
            let mut weights = [s.splat_u(0); ROWS];
            for (weights, words) in weights.iter_mut().zip(words) {
                *weights = s.lookup_halves(&self.0, s.shift_right(*words, 4 * j as u32));
            }
            for (i, x) in x.chunks_exact(4).enumerate() {
                let x = s.load_u(&x[j]);
                for (weights, sums) in weights.iter().zip(&mut *sums) {
                    sums[i] = s.dot_pairs(*weights, x, sums[i]);
                }
            }
        }
    }
}

/// The scales of the words of some rows.
pub(super) trait GroupScales<S: Simd> {
    /// Returns the scale of each of the 16 words of a group of a row, and their minima if `MINIMA`. Words behind the row's end may
    /// have any finite ones.
    fn of_group<const MINIMA: bool>(&self, s: S, row: usize, group: usize) -> [S::F; 2];
}

/// Consecutive rows of a quantized matrix.
pub(super) struct WordRows<'a, C, G> {
    codes: C,
    scales: G,
    /// From the first row on, to the end of the matrix.
    words: &'a [u32],
    row_words: usize,
}

impl<'a, C, G> WordRows<'a, C, G> {
    /// Returns the rows from `first` on of a matrix of rows of `k` weights, with the scales of as many as are to be multiplied.
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        codes: C,
        scales: G,
        packed: &'a [u32],
        k: usize,
        first: usize,
    ) -> Self
    where
        C: Products<S>,
    {
        let row_words = k / C::PER_WORD;
        Self {
            codes,
            scales,
            words: &packed[first * row_words..],
            row_words,
        }
    }

    /// Computes the products `out: [rows][m]` with the bits of `x`, as [`interleaved`](super::interleaved) returns them, and with
    /// the sum of what of `x` meets each word, if the format has minima.
    #[inline(always)]
    pub(super) fn dot<const MINIMA: bool, S: Simd>(
        &self,
        s: S,
        x: &[u32],
        x_sums: &[f32],
        m: usize,
        out: &mut [f32],
    ) where
        C: Products<S>,
        G: GroupScales<S>,
    {
        match rows_taken(m) {
            1 => self.dot_of::<S, MINIMA, 1, 4>(s, x, x_sums, m, out),
            2 => self.dot_of::<S, MINIMA, 2, 4>(s, x, x_sums, m, out),
            4 => self.dot_of::<S, MINIMA, 4, 2>(s, x, x_sums, m, out),
            6 => self.dot_of::<S, MINIMA, 6, 2>(s, x, x_sums, m, out),
            _ => self.dot_of::<S, MINIMA, 8, 2>(s, x, x_sums, m, out),
        }
    }

    /// Does [`dot`](Self::dot) for up to `M` rows of `x`, `ROWS` rows of the matrix at a time.
    #[inline(always)]
    fn dot_of<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        x: &[u32],
        x_sums: &[f32],
        m: usize,
        out: &mut [f32],
    ) where
        C: Products<S>,
        G: GroupScales<S>,
    {
        let (x, _) = x.as_chunks();
        let (x_sums, _) = x_sums.as_chunks();
        let operands = Operands { x, x_sums };
        let mut row = 0;
        let mut together = out.chunks_exact_mut(ROWS * m);
        for out in &mut together {
            let products = self.dot_together::<S, MINIMA, M, ROWS>(s, row, operands);
            for (out, products) in out.chunks_exact_mut(m).zip(products) {
                out.copy_from_slice(&products[..m]);
            }
            row += ROWS;
        }
        for out in together.into_remainder().chunks_exact_mut(m) {
            let [products] = self.dot_together::<S, MINIMA, M, 1>(s, row, operands);
            out.copy_from_slice(&products[..m]);
            row += 1;
        }
    }

    /// Returns the products of `ROWS` rows from `row` on.
    #[inline(always)]
    fn dot_together<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        row: usize,
        operands: Operands<'_>,
    ) -> [[f32; M]; ROWS]
    where
        C: Products<S>,
        G: GroupScales<S>,
    {
        let mut words: [&[u32]; ROWS] = [&[]; ROWS];
        for (r, words) in words.iter_mut().enumerate() {
            *words = &self.words[(row + r) * self.row_words..];
        }
        let mut totals = [[s.splat(0.0); M]; ROWS];
        let mut codes = [s.splat_u(0); ROWS];
        let whole = self.row_words / 16;
        for group in 0..whole {
            for (codes, words) in codes.iter_mut().zip(words) {
                if self.row_words < LONG_ROW {
                    prefetch(CacheLevel::First, words, 16 * group + AHEAD);
                } else {
                    prefetch(CacheLevel::Second, words, 16 * group + FAR_AHEAD);
                }
                let (groups, _) = words.as_chunks();
                *codes = s.load_u(&groups[group]);
            }
            self.add_group::<S, MINIMA, M, ROWS>(s, row, group, codes, operands, &mut totals);
        }
        if !self.row_words.is_multiple_of(16) {
            // What follows the row's end meets zeros in `x`.
            for (codes, words) in codes.iter_mut().zip(words) {
                *codes = group_words(s, words, whole);
            }
            self.add_group::<S, MINIMA, M, ROWS>(s, row, whole, codes, operands, &mut totals);
        }
        let mut products = [[0.0; M]; ROWS];
        for i in 0..M {
            let mut column = [s.splat(0.0); ROWS];
            for (to, totals) in column.iter_mut().zip(&totals) {
                *to = totals[i];
            }
            for (products, sum) in products.iter_mut().zip(s.sums(column)) {
                products[i] = sum;
            }
        }
        products
    }

    /// Adds the products of a group of words of `ROWS` rows.
    #[inline(always)]
    fn add_group<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        row: usize,
        group: usize,
        codes: [S::U; ROWS],
        Operands { x, x_sums }: Operands<'_>,
        totals: &mut [[S::F; M]; ROWS],
    ) where
        C: Products<S>,
        G: GroupScales<S>,
    {
        let mut sums = [[s.splat(0.0); M]; ROWS];
        let met = &x[group * M * C::VECTORS..][..M * C::VECTORS];
        self.codes.add(s, &codes, met, &mut sums);
        let x_sums = if MINIMA {
            &x_sums[group * M..][..M]
        } else {
            &[]
        };
        for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
            let [scale, minimum] = self.scales.of_group::<MINIMA>(s, row + r, group);
            for (i, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                *total = s.mul_add(sum, scale, *total);
                if MINIMA {
                    *total = s.mul_add(s.load(&x_sums[i]), minimum, *total);
                }
            }
        }
    }
}

/// Rows of `x`, as they are interleaved, and the sums of what of them meets each word.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [[u32; 16]],
    x_sums: &'a [[f32; 16]],
}
