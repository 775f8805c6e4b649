//! The packed layout of the rows of A.

use std::marker::PhantomData;
use std::ops::Range;

use super::precision::{Precision, WordFormat};
use super::scratch::Scratch;
use crate::simd::{Isa, Simd, kernel};

/// A format of packed rows: micro-panels of `mr` rows of `k` values, each `[words along k][mr]`. Rows of the last
/// micro-panel that do not exist are zeros.
///
/// Without it the micro-kernel would read `mr` rows, each a stride apart that for usual sizes is a multiple of the cache's,
/// so that they would evict one another.
#[derive(Clone, Copy)]
pub(super) struct Packing<P> {
    mr: usize,
    k: usize,
    precision: PhantomData<P>,
}

impl<P: Precision> Packing<P> {
    /// Returns the format of micro-panels `[mr, k]`.
    pub(super) fn new(mr: usize, k: usize) -> Self {
        Self {
            mr,
            k,
            precision: PhantomData,
        }
    }

    pub(super) fn mr(self) -> usize {
        self.mr
    }

    pub(super) fn k(self) -> usize {
        self.k
    }

    /// Returns the words of a micro-panel.
    pub(super) fn panel_words(self) -> usize {
        P::a_words(self.k) * self.mr
    }

    /// Returns the length of the parts along k that are multiplied at a time: equal ones, as few as [`Precision::KC`] allows,
    /// of whole groups.
    fn kc(self) -> usize {
        self.k
            .div_ceil(self.k.div_ceil(<P as Precision>::KC).max(1))
            .next_multiple_of(P::GROUP)
    }

    /// Returns the words along k of the largest part of B.
    pub(super) fn kc_words(self) -> usize {
        P::b_words(self.parts().map(|(_, kc)| kc).max().unwrap_or(0))
    }

    /// Returns the parts along k: where each begins, and its length.
    pub(super) fn parts(self) -> impl ExactSizeIterator<Item = (usize, usize)> {
        let Self { k, .. } = self;
        let kc = self.kc().max(1);
        (0..k).step_by(kc).map(move |p| (p, kc.min(k - p)))
    }
}

/// Packed rows of A.
pub(super) struct PackedA<P> {
    words: Scratch,
    packing: Packing<P>,
}

/// Packed rows that lie elsewhere, or some micro-panels of them.
#[derive(Clone, Copy)]
pub(super) struct PackedARef<'a, P> {
    words: &'a [u32],
    packing: Packing<P>,
}

impl<P: Precision> PackedA<P> {
    /// Returns micro-panels of unspecified values.
    pub(super) fn unfilled(panels: usize, packing: Packing<P>) -> Self {
        Self {
            words: Scratch::new(panels * packing.panel_words()),
            packing,
        }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    pub(super) fn as_ref(&self) -> PackedARef<'_, P> {
        PackedARef::new(&self.words, self.packing)
    }
}

impl<P: WordFormat> PackedA<P> {
    /// Packs columns of `x: [k, stride]` as the rows of A.
    pub(super) fn of_columns(
        isa: Isa,
        x: &[f32],
        stride: usize,
        columns: Range<usize>,
        mr: usize,
    ) -> Self {
        let packing = Packing::new(mr, x.len() / stride);
        let mut packed = Self::unfilled(columns.len().div_ceil(mr), packing);
        let panels = packed.words.chunks_exact_mut(packing.panel_words());
        for (first, words) in columns.clone().step_by(mr).zip(panels) {
            let count = mr.min(columns.end - first);
            pack_columns::<P>(isa, &x[first..], stride, [count, mr], words);
        }
        packed
    }
}

impl<'a, P: Precision> PackedARef<'a, P> {
    pub(super) fn new(words: &'a [u32], packing: Packing<P>) -> Self {
        Self { words, packing }
    }

    pub(super) fn packing(self) -> Packing<P> {
        self.packing
    }

    /// Returns the number of micro-panels.
    pub(super) fn panels(self) -> usize {
        self.words.len() / self.packing.panel_words()
    }

    /// Returns the words of part `p..p + kc` of micro-panel `i`.
    pub(super) fn part(self, i: usize, p: usize, kc: usize) -> &'a [u32] {
        let (mr, len) = (self.packing.mr, self.packing.panel_words());
        let words = &self.words[i * len..(i + 1) * len];
        &words[P::a_words(p) * mr..][..P::a_words(kc) * mr]
    }
}

kernel! {
    /// Packs the first `count` columns of `x`, whose rows are `stride` apart, as a micro-panel of `mr` rows.
    fn pack_columns<P: WordFormat>(
        x: &[f32],
        stride: usize,
        of: [usize; 2],
        words: &mut [u32],
    ) = pack_pairs::<_, P>;
}

#[inline(always)]
fn pack_pairs<S: Simd, P: WordFormat>(
    s: S,
    x: &[f32],
    stride: usize,
    [count, mr]: [usize; 2],
    words: &mut [u32],
) {
    let mut rows = x.chunks(stride).map(|row| {
        let mut lanes = [0.0; 16];
        lanes[..count].copy_from_slice(&row[..count]);
        s.load(&lanes)
    });
    let mut words = words.chunks_exact_mut(mr);
    while let Some(even) = rows.next() {
        let odd = rows.next().unwrap_or(s.splat(0.0));
        let mut pair = [[0; 16]; 2];
        P::store(s, [even, odd], &mut pair, 0, 0, 1);
        for (words, lanes) in words.by_ref().take(2 / P::PER_WORD).zip(&pair) {
            words.copy_from_slice(&lanes[..mr]);
        }
    }
}
