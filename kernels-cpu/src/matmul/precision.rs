//! The numbers that the micro-kernel multiplies: f32, pairs of bf16, or groups of int8.

mod int8;

pub(super) use int8::Int8;

use super::pack_b::{MatrixB, MicroPanel};
use super::packed_a::Packing;
use crate::element::Element;
use crate::simd::Simd;

/// A format that operands are packed in, and the product of micro-panels of it. Sums are in f32.
///
/// A micro-panel is words of 32 bits, `[words along k][mr]` or `[words along k][nr]`.
pub(super) trait Precision: Copy + Send + Sync + 'static {
    /// Most values along k that are packed of B at a time, which bounds how much the L1 and L2 caches have to hold.
    const KC: usize;
    /// Values along k that are packed together: parts along k begin at multiples of it.
    const GROUP: usize;

    /// Returns the words along k of `k` values of a row of A.
    fn a_words(k: usize) -> usize;
    /// Returns the words along k of `k` values of a column of B.
    fn b_words(k: usize) -> usize;

    /// Packs up to `mr` rows of `x` as a micro-panel.
    fn pack_a<S: Simd, E: Element>(s: S, packing: Packing<Self>, x: &[E], words: &mut [u32]);
    /// Packs a micro-panel of `b`.
    fn pack_b<S: Simd, B: MatrixB>(s: S, b: B, panel: MicroPanel, out: &mut [[u32; 16]]);

    /// Multiplies a micro-panel of A by one of B, and puts the product into `sums: [MR][VECTORS][16]`, or adds it.
    ///
    /// Each element is summed along k from 0 on.
    fn multiply<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        a: &[u32],
        b: &[[u32; 16]],
        sums: &mut [[u32; 16]],
        accumulate: bool,
    );
}

/// A [`Precision`] whose words hold one or two consecutive values along k each, and nothing else.
pub(super) trait WordFormat: Copy + Send + Sync + 'static {
    /// Values in a word: 1 or 2.
    const PER_WORD: usize;
    /// [`Precision::KC`].
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

    /// Adds to each row of `totals` the products of a word of A, `x`, with one of B.
    fn add_products<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; MR],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; MR],
    );
}

impl<P: WordFormat> Precision for P {
    const KC: usize = <P as WordFormat>::KC;
    /// Codes of four bits that fill a word.
    const GROUP: usize = 8;

    fn a_words(k: usize) -> usize {
        k.div_ceil(P::PER_WORD)
    }

    fn b_words(k: usize) -> usize {
        k.div_ceil(P::PER_WORD)
    }

    #[inline(always)]
    fn pack_a<S: Simd, E: Element>(s: S, packing: Packing<P>, x: &[E], words: &mut [u32]) {
        let (mr, k) = (packing.mr(), packing.k());
        let row = |i: usize| x.get(i * k..(i + 1) * k).unwrap_or(&[]);
        let block = 16 * P::PER_WORD;
        let blocks = k / block;
        for at in 0..blocks {
            let mut lanes = [s.splat_u(0); 16];
            for (i, lanes) in lanes.iter_mut().enumerate().take(mr) {
                if let Some(values) = row(i).get(at * block..(at + 1) * block) {
                    *lanes = P::words_16(s, values);
                }
            }
            put_rows(s, lanes, mr, &mut words[at * 16 * mr..]);
        }
        let rest = &mut words[blocks * 16 * mr..];
        for i in 0..mr {
            let places = rest.iter_mut().skip(i).step_by(mr);
            let values = row(i).get(blocks * block..).unwrap_or(&[]);
            let words = P::words(values).chain(std::iter::repeat(0));
            places.zip(words).for_each(|(place, word)| *place = word);
        }
    }

    #[inline(always)]
    fn pack_b<S: Simd, B: MatrixB>(s: S, b: B, panel: MicroPanel, out: &mut [[u32; 16]]) {
        b.pack::<S, P>(s, panel, out);
    }

    #[inline(always)]
    fn multiply<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        a: &[u32],
        b: &[[u32; 16]],
        sums: &mut [[u32; 16]],
        accumulate: bool,
    ) {
        let (a, _) = a.as_chunks::<MR>();
        let (b, _) = b.as_chunks::<VECTORS>();
        let mut totals = [[s.splat(0.0); VECTORS]; MR];
        for (a, b) in a.iter().zip(b) {
            P::add_products(s, a, b, &mut totals);
        }
        let (sums, _) = sums.as_chunks_mut::<VECTORS>();
        for (sums, totals) in sums.iter_mut().zip(totals) {
            for (sum, total) in sums.iter_mut().zip(totals) {
                let total = if accumulate {
                    s.add(s.float(s.load_u(sum)), total)
                } else {
                    total
                };
                s.store_u(s.bits(total), sum);
            }
        }
    }
}

/// Writes 16 words of each of `mr` rows as `[16][mr]`.
#[inline(always)]
fn put_rows<S: Simd>(s: S, rows: [S::U; 16], mr: usize, out: &mut [u32]) {
    // A store reaches past the `mr` words of its place along k; the next one writes over that.
    for (word, lanes) in s.transpose(rows).into_iter().enumerate() {
        match out[word * mr..].first_chunk_mut() {
            Some(out) => s.store_u(lanes, out),
            None => {
                let mut last = [0; 16];
                s.store_u(lanes, &mut last);
                out[word * mr..][..mr].copy_from_slice(&last[..mr]);
            }
        }
    }
}

/// The largest [`Precision::KC`].
pub(super) const MAX_KC: usize = 768;

const _: () = assert!(<F32 as WordFormat>::KC <= MAX_KC && <Bf16Pairs as WordFormat>::KC <= MAX_KC);

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

/// Runs `$body` with `$P` the precision in which elements of type `$E` are multiplied, and `$Q` that of their products with a
/// quantized matrix.
macro_rules! in_precisions_of {
    ($cpu:expr, $E:ident, $P:ident, $Q:ident => $body:expr) => {
        if $E::IN_PAIRS {
            type $P = $crate::matmul::precision::Bf16Pairs;
            match $cpu.products {
                $crate::cpu::QuantizedProducts::Float => {
                    type $Q = $P;
                    $body
                }
                $crate::cpu::QuantizedProducts::Int8 => {
                    type $Q = $crate::matmul::precision::Int8;
                    $body
                }
            }
        } else {
            type $P = $crate::matmul::precision::F32;
            type $Q = $P;
            $body
        }
    };
}
pub(super) use in_precisions_of;

/// One f32 a word.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl WordFormat for F32 {
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

    #[inline(always)]
    fn add_products<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; MR],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; MR],
    ) {
        s.add_products(x, weights, totals);
    }
}

/// Two bf16 a word, the earlier along k in the low half.
#[derive(Clone, Copy)]
pub(super) struct Bf16Pairs;

impl WordFormat for Bf16Pairs {
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

    #[inline(always)]
    fn add_products<S: Simd, const MR: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; MR],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; MR],
    ) {
        s.add_pair_products(x, weights, totals);
    }
}

/// Returns the first 16 values.
#[inline(always)]
fn widened<S: Simd, E: Element>(s: S, values: &[E]) -> S::F {
    let values = values.first_chunk().expect("there are 16 values");
    E::load_16(s, values)
}
