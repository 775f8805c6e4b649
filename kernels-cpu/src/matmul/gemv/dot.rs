//! The products of the words of rows with what meets them, whatever the words stand for.
//!
//! Every word of a row is read once. Several rows are taken up together, so that `x` is loaded once for all of them and their sums do
//! not wait for each other; a row has the same bits whatever others stand beside it.

use super::{MAX_ROWS, group_words};
use crate::blocks::codes::Codes;
use crate::simd::{Simd, prefetch};

/// Words ahead of those in work that are asked for: what is read until they come from memory.
const AHEAD: usize = 512;

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
        C: Codes<S>,
    {
        let row_words = k / C::PER_WORD;
        Self {
            codes,
            scales,
            words: &packed[first * row_words..],
            row_words,
        }
    }

    /// Computes the products `out: [rows][m]` with `x`, `m` rows interleaved and filled with zeros to whole groups, and with the sum of
    /// what of `x` meets each word, if the format has minima.
    #[inline(always)]
    pub(super) fn dot<const MINIMA: bool, S: Simd>(
        &self,
        s: S,
        x: [&[f32]; 2],
        m: usize,
        out: &mut [f32],
    ) where
        C: Codes<S>,
        G: GroupScales<S>,
    {
        const { assert!(MAX_ROWS == 5) };
        match m {
            1 => self.dot_of::<S, MINIMA, 1, 4>(s, x, out),
            2 => self.dot_of::<S, MINIMA, 2, 2>(s, x, out),
            3 => self.dot_of::<S, MINIMA, 3, 1>(s, x, out),
            4 => self.dot_of::<S, MINIMA, 4, 1>(s, x, out),
            _ => self.dot_of::<S, MINIMA, 5, 1>(s, x, out),
        }
    }

    #[inline(always)]
    fn dot_of<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        [x, x_sums]: [&[f32]; 2],
        out: &mut [f32],
    ) where
        C: Codes<S>,
        G: GroupScales<S>,
    {
        let (x, _) = x.as_chunks::<16>();
        let vectors = x.len() / M;
        let (x_sums, _) = x_sums.as_chunks::<16>();
        let operands = Operands::<M> {
            x: std::array::from_fn(|i| &x[i * vectors..][..vectors]),
            x_sums: std::array::from_fn(|i| {
                if MINIMA {
                    &x_sums[i * vectors / C::PER_WORD..][..vectors / C::PER_WORD]
                } else {
                    &[]
                }
            }),
        };
        let (together, single) = out.as_chunks_mut::<M>().0.as_chunks_mut::<ROWS>();
        let mut row = 0;
        for out in together {
            self.dot_together::<S, MINIMA, M, ROWS>(s, row, operands, out);
            row += ROWS;
        }
        for out in single {
            self.dot_together::<S, MINIMA, M, 1>(s, row, operands, std::array::from_mut(out));
            row += 1;
        }
    }

    /// Computes the products of `ROWS` rows from `row` on.
    #[inline(always)]
    fn dot_together<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        row: usize,
        operands: Operands<'_, M>,
        out: &mut [[f32; M]; ROWS],
    ) where
        C: Codes<S>,
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
                prefetch(words, 16 * group + AHEAD);
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
        for i in 0..M {
            let mut column = [s.splat(0.0); ROWS];
            for (to, totals) in column.iter_mut().zip(&totals) {
                *to = totals[i];
            }
            for (out, sum) in out.iter_mut().zip(s.sums(column)) {
                out[i] = sum;
            }
        }
    }

    /// Adds the products of a group of words of `ROWS` rows.
    #[inline(always)]
    fn add_group<S: Simd, const MINIMA: bool, const M: usize, const ROWS: usize>(
        &self,
        s: S,
        row: usize,
        group: usize,
        codes: [S::U; ROWS],
        Operands { x, x_sums }: Operands<'_, M>,
        totals: &mut [[S::F; M]; ROWS],
    ) where
        C: Codes<S>,
        G: GroupScales<S>,
    {
        let mut sums = [[s.splat(0.0); M]; ROWS];
        let mut met: [&[[f32; 16]]; M] = [&[]; M];
        for (met, x) in met.iter_mut().zip(x) {
            *met = &x[group * C::PER_WORD..][..C::PER_WORD];
        }
        for pair in 0..C::PER_WORD / 2 {
            for (codes, sums) in codes.iter().zip(&mut sums) {
                let weights = self.codes.pair(s, *codes, pair as u32);
                for (j, weights) in (2 * pair..).zip(weights) {
                    for (x, sum) in met.iter().zip(&mut *sums) {
                        *sum = s.mul_add(weights, s.load(&x[j]), *sum);
                    }
                }
            }
        }
        for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
            let [scale, minimum] = self.scales.of_group::<MINIMA>(s, row + r, group);
            for (i, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                *total = s.mul_add(sum, scale, *total);
                if MINIMA {
                    *total = s.mul_add(s.load(&x_sums[i][group]), minimum, *total);
                }
            }
        }
    }
}

/// `M` rows of `x` and the sums of what of them meets each word.
#[derive(Clone, Copy)]
struct Operands<'a, const M: usize> {
    x: [&'a [[f32; 16]]; M],
    x_sums: [&'a [[f32; 16]]; M],
}
