//! What the register tile multiplies: f32, or pairs of bf16.

use crate::element::Element;
use crate::simd::Simd;

/// The numbers that a product multiplies, in words of 32 bits that hold one or more steps of the sum. Sums are in f32.
pub(crate) trait Precision: Copy + Send + Sync {
    /// Steps of the sum in a word.
    const STEPS: usize;
    /// Most steps along the sum in one panel, which bounds how much of a panel the L1 and L2 caches have to hold.
    const MAX_DEPTH: usize;

    /// The words of one row of operands; a last word that is not full ends with zeros.
    fn words<E: Element>(row: &[E]) -> impl Iterator<Item = u32>;
    /// The first 16 words of a row that has as many.
    fn words_16<S: Simd, E: Element>(s: S, row: &[E]) -> S::U;
    /// Adds to each row of `totals` the products of all steps in its word of `x` and those of `weights`.
    fn add_products<S: Simd, const ROWS: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; ROWS],
    );
    /// Stores steps `2 pair` and `2 pair + 1` of 16 columns: vector `v` of the `vectors` that a panel is wide.
    fn store<S: Simd>(
        s: S,
        steps: [S::F; 2],
        out: &mut [[u32; 16]],
        pair: usize,
        v: usize,
        vectors: usize,
    );
    /// Stores one step of one column alone.
    fn set(value: f32, out: &mut [[u32; 16]], step: usize, column: usize, vectors: usize);
}

/// Steps of the sum that no panel exceeds, whatever its precision.
pub(super) const LARGEST_DEPTH: usize = 768;

const _: () = assert!(F32::MAX_DEPTH <= LARGEST_DEPTH && Bf16Pairs::MAX_DEPTH <= LARGEST_DEPTH);

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
pub(crate) struct F32;

impl Precision for F32 {
    const STEPS: usize = 1;
    const MAX_DEPTH: usize = 640;

    #[inline(always)]
    fn words<E: Element>(row: &[E]) -> impl Iterator<Item = u32> {
        row.iter().map(|value| value.to_f32().to_bits())
    }

    #[inline(always)]
    fn words_16<S: Simd, E: Element>(s: S, row: &[E]) -> S::U {
        s.bits(widened(s, row))
    }

    #[inline(always)]
    fn add_products<S: Simd, const ROWS: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; ROWS],
    ) {
        s.add_products(x, weights, totals);
    }

    #[inline(always)]
    fn store<S: Simd>(
        s: S,
        steps: [S::F; 2],
        out: &mut [[u32; 16]],
        pair: usize,
        v: usize,
        vectors: usize,
    ) {
        for (i, step) in steps.into_iter().enumerate() {
            s.store_u(s.bits(step), &mut out[(2 * pair + i) * vectors + v]);
        }
    }

    #[inline(always)]
    fn set(value: f32, out: &mut [[u32; 16]], step: usize, column: usize, vectors: usize) {
        out[step * vectors + column / 16][column % 16] = value.to_bits();
    }
}

/// Two bf16 a word, the earlier step in the low half.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Pairs;

impl Precision for Bf16Pairs {
    const STEPS: usize = 2;
    const MAX_DEPTH: usize = LARGEST_DEPTH;

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
    fn add_products<S: Simd, const ROWS: usize, const VECTORS: usize>(
        s: S,
        x: &[u32; ROWS],
        weights: &[[u32; 16]; VECTORS],
        totals: &mut [[S::F; VECTORS]; ROWS],
    ) {
        s.add_pair_products(x, weights, totals);
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
    fn set(value: f32, out: &mut [[u32; 16]], step: usize, column: usize, vectors: usize) {
        let word = &mut out[step / 2 * vectors + column / 16][column % 16];
        let half = 16 * (step % 2);
        *word = *word & !(0xffff << half) | value.to_bf16_bits() << half;
    }
}

/// The first 16 values.
#[inline(always)]
fn widened<S: Simd, E: Element>(s: S, values: &[E]) -> S::F {
    let values = values.first_chunk().expect("there are 16 values");
    E::load_16(s, values)
}
