//! The rows of `x` rearranged so that the register tile reads them one after another.

use std::marker::PhantomData;
use std::ops::Range;

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
    shape: Shape<P>,
}

/// How rows are packed.
#[derive(Clone, Copy)]
pub(super) struct Shape<P> {
    rows: usize,
    inner: usize,
    precision: PhantomData<P>,
}

impl<P: Precision> Shape<P> {
    /// Tiles of `rows` rows of `inner` values.
    pub(super) fn new(rows: usize, inner: usize) -> Self {
        Self {
            rows,
            inner,
            precision: PhantomData,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Steps of the sum.
    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    /// Words of a tile.
    pub(super) fn tile_words(&self) -> usize {
        self.inner.div_ceil(P::STEPS) * self.rows
    }

    /// Packs `x: [.., inner]` into as many tiles as `words` holds.
    pub(super) fn pack<E: Element>(&self, isa: Isa, x: &[E], words: &mut [u32]) {
        let tiles = words.chunks_exact_mut(self.tile_words());
        for (words, x) in tiles.zip(x.chunks(self.inner * self.rows)) {
            pack_tile::<P, E>(isa, x, self.inner, self.rows, words);
        }
    }
}

/// Packed rows, or some tiles of them.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a, P> {
    words: &'a [u32],
    shape: Shape<P>,
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
        let shape = Shape::new(rows, inner);
        let mut packed = Self::unfilled(x.len().div_ceil(inner * rows), shape);
        let words = packed.words_mut();
        match threads {
            Threads::All if words.len() >= PARALLEL => words
                .par_chunks_mut(shape.tile_words())
                .zip(x.par_chunks(inner * rows))
                .with_min_len(4)
                .for_each(|(words, x)| shape.pack(isa, x, words)),
            _ => shape.pack(isa, x, words),
        }
        packed
    }

    /// Packs some columns of `x`, whose rows are `stride` long, for tiles of `rows` of them.
    pub(super) fn of_columns(
        isa: Isa,
        x: &[f32],
        stride: usize,
        columns: Range<usize>,
        rows: usize,
    ) -> Self {
        let shape = Shape::new(rows, x.len() / stride);
        let mut packed = Self::unfilled(columns.len().div_ceil(rows), shape);
        let tiles = packed.words_mut().chunks_exact_mut(shape.tile_words());
        for (first, words) in columns.clone().step_by(rows).zip(tiles) {
            let count = rows.min(columns.end - first);
            pack_columns::<P>(isa, &x[first..], stride, [count, rows], words);
        }
        packed
    }

    /// Words of no particular value for `tiles` tiles.
    pub(super) fn unfilled(tiles: usize, shape: Shape<P>) -> Self {
        Self {
            words: Scratch::new(tiles * shape.tile_words()),
            shape,
        }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// All tiles.
    pub(super) fn tiles(&self) -> Tiles<'_, P> {
        Tiles {
            words: &self.words,
            shape: self.shape,
        }
    }
}

impl<'a, P: Precision> Tiles<'a, P> {
    /// The tiles that `words` hold.
    pub(super) fn new(words: &'a [u32], shape: Shape<P>) -> Self {
        Self { words, shape }
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        self.shape.rows
    }

    /// Steps of the sum.
    pub(super) fn inner(self) -> usize {
        self.shape.inner
    }

    /// Tiles.
    pub(super) fn count(self) -> usize {
        self.words.len() / self.shape.tile_words()
    }

    /// Words of the largest part of a panel that is `width` wide.
    pub(super) fn panel_words(self, width: usize) -> usize {
        let inner = self.shape.inner;
        depth::<P>(inner).min(inner).div_ceil(P::STEPS) * width
    }

    /// The parts of the sum: where each begins, and its steps.
    pub(super) fn parts(self) -> impl Iterator<Item = (usize, usize)> {
        let inner = self.shape.inner;
        let depth = depth::<P>(inner);
        (0..inner)
            .step_by(depth)
            .map(move |start| (start, depth.min(inner - start)))
    }

    /// The words of a part of a tile.
    pub(super) fn part(self, tile: usize, start: usize, depth: usize) -> &'a [u32] {
        let len = self.shape.tile_words();
        let words = &self.words[tile * len..(tile + 1) * len];
        &words[start / P::STEPS * self.rows()..][..depth.div_ceil(P::STEPS) * self.rows()]
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

kernel! {
    /// Packs the first `count` columns of `x`, whose rows are `stride` apart, as the rows of one tile.
    fn pack_columns<P: Precision>(
        x: &[f32],
        stride: usize,
        of: [usize; 2],
        words: &mut [u32],
    ) = pack_pairs::<_, P>;
}

#[inline(always)]
fn pack_pairs<S: Simd, P: Precision>(
    s: S,
    x: &[f32],
    stride: usize,
    [count, rows]: [usize; 2],
    words: &mut [u32],
) {
    let mut steps = x.chunks(stride).map(|row| {
        let mut lanes = [0.0; 16];
        lanes[..count].copy_from_slice(&row[..count]);
        s.load(&lanes)
    });
    let mut words = words.chunks_exact_mut(rows);
    while let Some(even) = steps.next() {
        let odd = steps.next().unwrap_or(s.splat(0.0));
        let mut pair = [[0; 16]; 2];
        P::store(s, [even, odd], &mut pair, 0, 0, 1);
        for (words, lanes) in words.by_ref().take(2 / P::STEPS).zip(&pair) {
            words.copy_from_slice(&lanes[..rows]);
        }
    }
}

/// Steps of a part: equal ones, as few as may be, of whole words of codes.
fn depth<P: Precision>(inner: usize) -> usize {
    inner
        .div_ceil(inner.div_ceil(P::MAX_DEPTH))
        .next_multiple_of(8)
}
