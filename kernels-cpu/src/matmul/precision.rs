//! The numbers that the micro-kernel multiplies: f32, or pairs of bf16.

use crate::element::Element;
use crate::simd::Simd;

/// A number format that operands are packed in: words of 32 bits that hold one or two consecutive values along k. Sums are
/// in f32.
pub(super) trait Precision: Copy + Send + Sync {
    /// Values in a word: 1 or 2.
    const PER_WORD: usize;
    /// Most values along k that are packed of B at a time, which bounds how much the L1 and L2 caches have to hold.
    const KC: usize;

    /// Returns the words of one row; a last word that is not full ends with zeros.
    fn words<E: Element>(row: &[E]) -> impl Iterator<Item = u32>;
    /// Returns the first 16 words of a row that has as many.
    fn words_16<S: Simd, E: Element>(s: S, row: &[E]) -> S::U;
    /// Stores values `2 pair` and `2 pair + 1` along k of 16 columns: vector `v` of the `vectors` that a micro-panel of B is
    /// wide.
    fn store<S: Simd>(
        s: S,
        values: [S::F; 2],
        out: &mut [[u32; 16]],
        pair: usize,
        v: usize,
        vectors: usize,
    );
    /// Stores value `p` along k of column `j` alone.
    fn set(value: f32, out: &mut [[u32; 16]], p: usize, j: usize, vectors: usize);
}

/// The largest [`Precision::KC`].
pub(super) const MAX_KC: usize = 768;

const _: () = assert!(F32::KC <= MAX_KC && Bf16Pairs::KC <= MAX_KC);

/// Runs `$body` with `$P` the precision in which elements of type `$E` are multiplied.
macro_rules! in_precision_of {
    ($E:ident, $P:ident => $body:expr) => {
        if $E::IN_PAIRS {
            type $P = $crate::matmul::precision::Bf16Pairs;
            $body
        } else {
            type $P = $crate::matmul::precision::F32;
            $body
        }
    };
}
pub(super) use in_precision_of;

/// One f32 a word.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl Precision for F32 {
    const PER_WORD: usize = 1;
    const KC: usize = 640;

    #[inline(always)]
    fn words<E: Element>(row: &[E]) -> impl Iterator<Item = u32> {
        row.iter().map(|value| value.to_f32().to_bits())
    }

    #[inline(always)]
    fn words_16<S: Simd, E: Element>(s: S, row: &[E]) -> S::U {
        s.bits(widened(s, row))
    }

    #[inline(always)]
    fn store<S: Simd>(
        s: S,
        values: [S::F; 2],
        out: &mut [[u32; 16]],
        pair: usize,
        v: usize,
        vectors: usize,
    ) {
        for (i, value) in values.into_iter().enumerate() {
            s.store_u(s.bits(value), &mut out[(2 * pair + i) * vectors + v]);
        }
    }

    #[inline(always)]
    fn set(value: f32, out: &mut [[u32; 16]], p: usize, j: usize, vectors: usize) {
        out[p * vectors + j / 16][j % 16] = value.to_bits();
    }
}

/// Two bf16 a word, the earlier along k in the low half.
#[derive(Clone, Copy)]
pub(super) struct Bf16Pairs;

impl Precision for Bf16Pairs {
    const PER_WORD: usize = 2;
    const KC: usize = MAX_KC;

    #[inline(always)]
    fn words<E: Element>(row: &[E]) -> impl Iterator<Item = u32> {
        let (pairs, rest) = row.as_chunks::<2>();
        pairs
            .iter()
            .map(|[low, high]| low.to_bf16_bits() | high.to_bf16_bits() << 16)
            .chain(rest.iter().map(|last| last.to_bf16_bits()))
    }

    #[inline(always)]
    fn words_16<S: Simd, E: Element>(s: S, row: &[E]) -> S::U {
        match row.first_chunk().and_then(E::bf16_words) {
            Some(words) => s.load_u(&words),
            None => s.round_consecutive([widened(s, row), widened(s, &row[16..])]),
        }
    }

    #[inline(always)]
    fn store<S: Simd>(
        s: S,
        [even, odd]: [S::F; 2],
        out: &mut [[u32; 16]],
        pair: usize,
        v: usize,
        vectors: usize,
    ) {
        s.store_u(s.round_pairs(even, odd), &mut out[pair * vectors + v]);
    }

    #[inline(always)]
    fn set(value: f32, out: &mut [[u32; 16]], p: usize, j: usize, vectors: usize) {
        let word = &mut out[p / 2 * vectors + j / 16][j % 16];
        let half = 16 * (p % 2);
        *word = *word & !(0xffff << half) | value.to_bf16_bits() << half;
    }
}

/// Returns the first 16 values.
#[inline(always)]
fn widened<S: Simd, E: Element>(s: S, values: &[E]) -> S::F {
    let values = values.first_chunk().expect("there are 16 values");
    E::load_16(s, values)
}
