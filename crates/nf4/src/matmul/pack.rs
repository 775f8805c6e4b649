//! The rows of `x` rearranged so that the register tile reads them one after another.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::Threads;
use super::precision::Precision;
use super::scratch::Scratch;
use crate::element::Element;
use crate::simd::{Isa, Simd, kernel};

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
    pub(super) fn new<E: Element>(
        isa: Isa,
        x: &[E],
        inner: usize,
        rows: usize,
        threads: Threads,
    ) -> Self {
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
                pack_tile::<P, E>(isa, x, inner, steps.clone(), rows, words);
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

kernel! {
    /// Packs the steps `steps` of the rows of one tile.
    fn pack_tile<P: Precision, E: Element>(
        x: &[E],
        inner: usize,
        steps: Range<usize>,
        rows: usize,
        words: &mut [u32],
    ) = pack_rows::<_, P, E>;
}

#[inline(always)]
fn pack_rows<S: Simd, P: Precision, E: Element>(
    s: S,
    x: &[E],
    inner: usize,
    steps: Range<usize>,
    rows: usize,
    words: &mut [u32],
) {
    let row = |i: usize| match x.get(i * inner..(i + 1) * inner) {
        Some(row) => &row[steps.clone()],
        None => &[],
    };
    let block = 16 * P::STEPS;
    let blocks = steps.len() / block;
    let (first, rest) = words.split_at_mut(blocks * 16 * rows);
    for (at, out) in first.chunks_exact_mut(16 * rows).enumerate() {
        let mut lanes = [s.splat_u(0); 16];
        for (i, lanes) in lanes.iter_mut().enumerate().take(rows) {
            if let Some(values) = row(i).get(at * block..(at + 1) * block) {
                *lanes = P::words_16(s, values);
            }
        }
        // A store reaches past the words of its step; the next one writes over that.
        for (word, lanes) in s.transpose(lanes).into_iter().enumerate() {
            match out[word * rows..].first_chunk_mut() {
                Some(out) => s.store_u(lanes, out),
                None => {
                    let mut last = [0; 16];
                    s.store_u(lanes, &mut last);
                    out[word * rows..][..rows].copy_from_slice(&last[..rows]);
                }
            }
        }
    }
    for i in 0..rows {
        let places = rest.iter_mut().skip(i).step_by(rows);
        let values = row(i).get(blocks * block..).unwrap_or(&[]);
        let words = P::words(values).chain(std::iter::repeat(0));
        places.zip(words).for_each(|(place, word)| *place = word);
    }
}

/// Steps of a part: equal ones, as few as may be, of whole words of codes.
fn depth<P: Precision>(inner: usize) -> usize {
    inner
        .div_ceil(inner.div_ceil(P::MAX_DEPTH))
        .next_multiple_of(8)
}
