//! The rows of `x` rearranged so that the register tile reads them one after another.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::Threads;
use super::precision::Precision;
use super::scratch::Scratch;
use crate::element::Element;
use crate::simd::{Isa, Simd, kernel};

/// Some rows of `x` as `[tile][words][rows]`, to be taken up in parts of at most [`Precision::MAX_DEPTH`] steps along the
/// sum; rows of the last tile that do not exist are zeros.
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
        let len = inner.div_ceil(P::STEPS) * rows;
        let mut words = Scratch::new(tiles * len);
        let tile = |(words, x): (&mut [u32], &[E])| pack_tile::<P, E>(isa, x, inner, rows, words);
        match threads {
            Threads::All if words.len() >= PARALLEL => words
                .par_chunks_mut(len)
                .zip(x.par_chunks(inner * rows))
                .with_min_len(4)
                .for_each(tile),
            _ => words
                .chunks_mut(len)
                .zip(x.chunks(inner * rows))
                .for_each(tile),
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

    /// The parts of the sum: where each begins, and its steps.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let (inner, depth) = (self.inner, depth::<P>(self.inner));
        (0..inner)
            .step_by(depth)
            .map(move |start| (start, depth.min(inner - start)))
    }

    /// The words of a part of a tile.
    pub(super) fn tile(&self, tile: usize, start: usize, depth: usize) -> &[u32] {
        let len = self.inner.div_ceil(P::STEPS) * self.rows;
        let words = &self.words[tile * len..(tile + 1) * len];
        &words[start / P::STEPS * self.rows..][..depth.div_ceil(P::STEPS) * self.rows]
    }
}

/// Words below which waking other threads costs more than they save.
const PARALLEL: usize = 1 << 15;

kernel! {
    /// Packs the rows of one tile.
    fn pack_tile<P: Precision, E: Element>(
        x: &[E],
        inner: usize,
        rows: usize,
        words: &mut [u32],
    ) = pack_rows::<_, P, E>;
}

#[inline(always)]
fn pack_rows<S: Simd, P: Precision, E: Element>(
    s: S,
    x: &[E],
    inner: usize,
    rows: usize,
    words: &mut [u32],
) {
    let row = |i: usize| x.get(i * inner..(i + 1) * inner).unwrap_or(&[]);
    let block = 16 * P::STEPS;
    let blocks = inner / block;
    for at in 0..blocks {
        let out = &mut words[at * 16 * rows..];
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
    let rest = &mut words[blocks * 16 * rows..];
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
