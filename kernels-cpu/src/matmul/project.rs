//! Rows packed and multiplied by a thin matrix in one go, band by band while they are in the cache: what a low-rank
//! product needs of them beside the wide one.

use rayon::prelude::*;

use super::blocked::Destination;
use super::pack::{Packed, Shape, Tiles};
use super::panel::Panels;
use super::precision::Precision;
use super::{Threads, as_new, one_term};
use crate::element::Element;
use crate::simd::Isa;

/// Tiles of a band at most: with twelve rows in a tile and two thousand values in a row, 400 KiB of bf16.
const MAX_BAND: usize = 8;

/// `s·(x·F)` for a thin matrix `F: [inner, rank]`.
#[derive(Clone, Copy)]
pub(super) struct Projection<P, F> {
    pub(super) isa: Isa,
    pub(super) factor: F,
    pub(super) scale: f32,
    /// How `x` is packed.
    pub(super) shape: Shape<P>,
    pub(super) rank: usize,
}

/// Rows and what became of them.
pub(super) struct Projected<P> {
    /// The rows.
    pub(super) x: Packed<P>,
    /// `s·(x·F): [m, rank]`.
    pub(super) values: Vec<f32>,
    /// The same, in tiles of as many rows as those of `x`.
    pub(super) packed: Packed<P>,
}

impl<P: Precision> Projected<P> {
    /// Room for `m` rows. Made and dropped by the same thread, whose scratch it is in.
    pub(super) fn unfilled(m: usize, shape: Shape<P>, rank: usize) -> Self {
        let tiles = m.div_ceil(shape.rows());
        Self {
            x: Packed::unfilled(tiles, shape),
            values: vec![0.0; m * rank],
            packed: Packed::unfilled(tiles, Shape::new(shape.rows(), rank)),
        }
    }
}

impl<P: Precision, F: Panels> Projection<P, F> {
    /// Packs the rows `x`, and projects them.
    pub(super) fn fill<E: Element>(&self, x: &[E], to: &mut Projected<P>) {
        let (rows, inner) = (self.shape.rows(), self.shape.inner());
        let thin = Shape::<P>::new(rows, self.rank);
        let band = band((x.len() / inner).div_ceil(rows));
        let words = to.x.words_mut();
        let packed = to.packed.words_mut();
        words
            .par_chunks_mut(band * self.shape.tile_words())
            .zip(packed.par_chunks_mut(band * thin.tile_words()))
            .zip(to.values.par_chunks_mut(band * rows * self.rank))
            .zip(x.par_chunks(band * rows * inner))
            .with_max_len(1)
            .for_each(|(((words, packed), values), x)| {
                self.band(x, words, values);
                thin.pack(self.isa, values, packed);
            });
    }

    /// The projection of the rows `x` alone, `[m, rank]`.
    pub(super) fn of_rows<E: Element>(&self, x: &[E]) -> Vec<f32> {
        let (rows, inner) = (self.shape.rows(), self.shape.inner());
        let m = x.len() / inner;
        let mut values = vec![0.0; m * self.rank];
        let band = band(m.div_ceil(rows));
        values
            .par_chunks_mut(band * rows * self.rank)
            .zip(x.par_chunks(band * rows * inner))
            .with_max_len(1)
            .for_each(|(values, x)| {
                let tiles = (x.len() / inner).div_ceil(rows);
                let mut packed = Packed::unfilled(tiles, self.shape);
                self.band(x, packed.words_mut(), values);
            });
        values
    }

    fn band<E: Element>(&self, x: &[E], words: &mut [u32], values: &mut [f32]) {
        self.shape.pack(self.isa, x, words);
        let x = Tiles::new(words, self.shape);
        let y = Destination::New(as_new(values));
        one_term(self.isa, x, self.factor, y, Threads::One);
        values.iter_mut().for_each(|value| *value *= self.scale);
    }
}

/// Tiles of a band: several for every thread, so that all are busy to the end.
fn band(tiles: usize) -> usize {
    tiles
        .div_ceil(4 * rayon::current_num_threads())
        .clamp(1, MAX_BAND)
}
