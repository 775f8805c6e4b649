//! The rows of `x` rearranged so that the register tile reads them one after another.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::Threads;
use super::precision::Precision;
use super::scratch::Scratch;
use crate::element::Element;

/// Some rows of `x`, cut along the sum into parts of at most [`Precision::MAX_DEPTH`] steps, and each part as
/// `[tile][words][rows]`; rows of the last tile that do not exist are zeros.
///
/// Without it the tile would read as many rows as it has, each a stride apart that for usual sizes is a multiple of
/// the cache's, so that they would evict one another.
pub(crate) struct Packed<P> {
    words: Scratch,
    /// Rows of a tile.
    rows: usize,
    tiles: usize,
    inner: usize,
    precision: PhantomData<P>,
}

impl<P: Precision> Packed<P> {
    /// Packs `x: [.., inner]` for tiles of `rows` rows.
    pub(super) fn new<E: Element>(x: &[E], inner: usize, rows: usize, threads: Threads) -> Self {
        let tiles = x.len().div_ceil(inner * rows);
        let depth = depth::<P>(inner);
        let mut words = Scratch::new(tiles * rows * inner.div_ceil(P::STEPS));
        for (part, words) in words
            .chunks_mut(tiles * rows * depth / P::STEPS)
            .enumerate()
        {
            let steps = part * depth..((part + 1) * depth).min(inner);
            let len = steps.len().div_ceil(P::STEPS) * rows;
            let tile = |(words, x): (&mut [u32], &[E])| {
                for (i, row) in x.chunks(inner).enumerate() {
                    let places = words[i..].iter_mut().step_by(rows);
                    places
                        .zip(P::words(&row[steps.clone()]))
                        .for_each(|(place, word)| *place = word);
                }
                for i in x.len() / inner..rows {
                    words[i..]
                        .iter_mut()
                        .step_by(rows)
                        .for_each(|word| *word = 0);
                }
            };
            match threads {
                Threads::All => words
                    .par_chunks_mut(len)
                    .zip(x.par_chunks(inner * rows))
                    .with_min_len(4)
                    .for_each(tile),
                Threads::One => words
                    .chunks_mut(len)
                    .zip(x.chunks(inner * rows))
                    .for_each(tile),
            }
        }
        Self {
            words,
            rows,
            tiles,
            inner,
            precision: PhantomData,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles.
    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    /// Words of the largest part of a panel that is `width` wide.
    pub(super) fn panel_words(&self, width: usize) -> usize {
        depth::<P>(self.inner).min(self.inner).div_ceil(P::STEPS) * width
    }

    /// The parts: where each begins, its steps, and its words.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize, &[u32])> {
        let depth = depth::<P>(self.inner);
        let len = self.tiles * self.rows * depth / P::STEPS;
        self.words
            .chunks(len)
            .enumerate()
            .map(move |(part, words)| {
                let start = part * depth;
                (start, depth.min(self.inner - start), words)
            })
    }
}

/// Steps of a part: equal ones, as few as may be, of whole words of codes.
fn depth<P: Precision>(inner: usize) -> usize {
    inner
        .div_ceil(inner.div_ceil(P::MAX_DEPTH))
        .next_multiple_of(8)
}
