//! Decoding a panel of the right-hand matrix into the order in which the register tile reads it:
//! `[words][vectors][16]`, where 16 times `vectors` is the width of the tile.

use super::precision::{LARGEST_DEPTH, Precision};
use crate::dequantize::decode_range;
use crate::double_quant::decode_scales;
use crate::element::Element;
use crate::simd::Simd;
use nf4::MatrixRef;

/// Blocks that a row's part of a panel can touch: the smallest are 32 long, and both ends may be partial.
const MAX_BLOCKS: usize = LARGEST_DEPTH / 32 + 2;

/// The right-hand matrix of a product, `[inner, outer]`, of which it decodes a panel of neighbouring columns at a time.
pub(crate) trait Panels: Copy + Send + Sync {
    /// Columns.
    fn outer(self) -> usize;

    /// Decodes `16 * vectors` columns from `column` on, their steps `start..start + depth` along the sum. An odd last
    /// step is followed by zeros. What stands in columns beyond the last does not matter.
    fn decode<S: Simd, P: Precision>(self, s: S, place: Place, out: &mut [[u32; 16]]);
}

/// Which part of a matrix a panel is.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(super) column: usize,
    /// Vectors that the panel is wide.
    pub(super) vectors: usize,
    /// First step along the sum.
    pub(super) start: usize,
    /// Steps.
    pub(super) depth: usize,
}

/// `Wᵀ` of a quantized `W`: its rows are the columns of panels.
#[derive(Clone, Copy)]
pub(super) struct QuantizedRows<'a>(pub(super) MatrixRef<'a>);

/// A quantized `W` as it is.
#[derive(Clone, Copy)]
pub(super) struct QuantizedColumns<'a>(pub(super) MatrixRef<'a>);

/// `Wᵀ` of a dense row-major `W: [outer, inner]`.
#[derive(Clone, Copy)]
pub(super) struct DenseRows<'a, E> {
    values: &'a [E],
    outer: usize,
    stride: usize,
}

/// A dense row-major `W: [inner, outer]`.
#[derive(Clone, Copy)]
pub(super) struct DenseColumns<'a, E> {
    values: &'a [E],
    outer: usize,
    stride: usize,
}

impl<'a, E> DenseRows<'a, E> {
    /// Rows that lie one after another.
    pub(super) const fn new(values: &'a [E], inner: usize) -> Self {
        Self::with_stride(values, values.len() / inner, inner)
    }

    pub(super) const fn with_stride(values: &'a [E], outer: usize, stride: usize) -> Self {
        Self {
            values,
            outer,
            stride,
        }
    }
}

impl<'a, E> DenseColumns<'a, E> {
    /// Rows that lie one after another.
    pub(super) const fn new(values: &'a [E], outer: usize) -> Self {
        Self::with_stride(values, outer, outer)
    }

    pub(super) const fn with_stride(values: &'a [E], outer: usize, stride: usize) -> Self {
        Self {
            values,
            outer,
            stride,
        }
    }
}

impl Panels for QuantizedRows<'_> {
    fn outer(self) -> usize {
        self.0.layout().out_features()
    }

    #[inline(always)]
    fn decode<S: Simd, P: Precision>(self, s: S, place: Place, out: &mut [[u32; 16]]) {
        let w = self.0;
        let [n, k] = w.layout().shape();
        let Place {
            column: row,
            vectors,
            start,
            depth,
        } = place;
        // The lanes of a gather reach 15 rows ahead with 32-bit indices.
        if !k.is_multiple_of(8) || !start.is_multiple_of(8) || k > i32::MAX as usize / 16 {
            return decode_rows_one_by_one::<S, P>(s, w, place, out);
        }
        let size = w.layout().config().block_size;
        let block_words = size / 8;
        let table = s.table(w.layout().config().codebook.values());
        let words = depth / 8;
        for v in 0..vectors {
            let rows: [usize; 16] = std::array::from_fn(|lane| (row + 16 * v + lane).min(n - 1));
            let first = rows.map(|row| (row * k + start) / 8);
            let mut scales = [0.0; 16 * MAX_BLOCKS];
            for (first, scales) in first.iter().zip(scales.chunks_exact_mut(MAX_BLOCKS)) {
                let blocks = first / block_words..(first + words - 1) / block_words + 1;
                decode_scales(s, w, blocks.start, &mut scales[..blocks.len()]);
            }
            let packed = &w.packed()[first[0]..];
            let offsets = first.map(|lane| (lane - first[0]) as u32);
            assert!(offsets[15] as usize + words <= packed.len());
            let offsets = s.load_u(&offsets);
            let phases = s.load_u(&first.map(|first| (first % block_words) as u32));
            let scale_rows = s.load_u(&std::array::from_fn(|lane| (lane * MAX_BLOCKS) as u32));
            // Where rows are whole numbers of blocks, all lanes pass into the next block together.
            let together = k.is_multiple_of(size);
            let mut scale = s.splat(0.0);
            for word in 0..words {
                if word == 0 || !together || (first[0] + word).is_multiple_of(block_words) {
                    let block = s.add_u(phases, s.splat_u(word as u32));
                    let block = s.shift_right(block, block_words.trailing_zeros());
                    // SAFETY: a row's part has at most `MAX_BLOCKS` blocks, its first word lying in block 0.
                    scale = unsafe { s.gather(&scales, s.add_u(scale_rows, block)) };
                }
                // SAFETY: the offsets rise and the last one was checked above to have `words` words behind it.
                let codes = unsafe { s.gather_u(packed, s.add_u(offsets, s.splat_u(word as u32))) };
                let out = &mut out[8 * word / P::STEPS * vectors..][..8 / P::STEPS * vectors];
                for pair in 0..4 {
                    let [even, odd] = s.lookup_pair(table, codes, pair);
                    let steps = [s.mul(even, scale), s.mul(odd, scale)];
                    P::store(s, steps, out, pair as usize, v, vectors);
                }
            }
        }
    }
}

/// [`QuantizedRows::decode`] for rows that do not begin at a word.
#[inline(always)]
fn decode_rows_one_by_one<S: Simd, P: Precision>(
    s: S,
    w: MatrixRef<'_>,
    place: Place,
    out: &mut [[u32; 16]],
) {
    let [n, k] = w.layout().shape();
    let mut buffer = [0.0; LARGEST_DEPTH];
    for column in 0..16 * place.vectors {
        let decoded = &mut buffer[..place.depth];
        let row = (place.column + column).min(n - 1);
        decode_range(s, w, row * k + place.start, decoded);
        set_column::<P>(decoded, out, column, place.vectors);
    }
}

/// Writes the steps of one column, and zeros to the end of the last word.
#[inline(always)]
fn set_column<P: Precision>(steps: &[f32], out: &mut [[u32; 16]], column: usize, vectors: usize) {
    for (step, value) in steps.iter().enumerate() {
        P::set(*value, out, step, column, vectors);
    }
    for step in steps.len()..steps.len().next_multiple_of(P::STEPS) {
        P::set(0.0, out, step, column, vectors);
    }
}

impl Panels for QuantizedColumns<'_> {
    fn outer(self) -> usize {
        self.0.layout().in_features()
    }

    #[inline(always)]
    fn decode<S: Simd, P: Precision>(self, s: S, place: Place, out: &mut [[u32; 16]]) {
        if self.outer().is_multiple_of(16 * place.vectors) {
            by_steps::<S, P, _>(s, WithinBlocks(self.0), place, out);
        } else {
            by_steps::<S, P, _>(s, AcrossBlocks(self.0), place, out);
        }
    }
}

/// A matrix whose rows are steps of the sum.
trait Steps {
    /// The panel's part of a row, of which up to two vectors are looked at.
    fn step<S: Simd>(&self, s: S, row: usize, place: Place) -> [S::F; 2];
}

/// Fills a panel from rows that are steps of the sum, two at a time.
#[inline(always)]
fn by_steps<S: Simd, P: Precision, R: Steps>(s: S, rows: R, place: Place, out: &mut [[u32; 16]]) {
    let Place {
        vectors,
        start,
        depth,
        ..
    } = place;
    for pair in 0..depth / 2 {
        let even = rows.step(s, start + 2 * pair, place);
        let odd = rows.step(s, start + 2 * pair + 1, place);
        for v in 0..vectors {
            P::store(s, [even[v], odd[v]], out, pair, v, vectors);
        }
    }
    if depth % 2 == 1 {
        let last = rows.step(s, start + depth - 1, place);
        let mut filled = [[0; 16]; 4];
        for (v, last) in last.into_iter().enumerate().take(vectors) {
            P::store(s, [last, s.splat(0.0)], &mut filled, 0, v, vectors);
        }
        let out = &mut out[depth / 2 * 2 / P::STEPS * vectors..][..vectors];
        out.copy_from_slice(&filled[..vectors]);
    }
}

/// Rows of a quantized matrix that are whole numbers of panels wide: the panel's part of a row begins at a multiple of
/// 16 or 32 elements and is as long, so that it lies in one block.
struct WithinBlocks<'a>(MatrixRef<'a>);

impl Steps for WithinBlocks<'_> {
    #[inline(always)]
    fn step<S: Simd>(&self, s: S, row: usize, place: Place) -> [S::F; 2] {
        let layout = self.0.layout();
        let config = layout.config();
        let table = s.table(config.codebook.values());
        let at = row * layout.in_features() + place.column;
        let mut scale = [0.0];
        decode_scales(s, self.0, at / config.block_size, &mut scale);
        let scale = s.splat(scale[0]);
        let (words, _) = self.0.packed()[at / 8..].as_chunks::<2>();
        let decode = |words| s.mul(s.lookup(table, s.codes(words)), scale);
        [decode(&words[0]), decode(&words[place.vectors - 1])]
    }
}

/// Rows of any width.
struct AcrossBlocks<'a>(MatrixRef<'a>);

impl Steps for AcrossBlocks<'_> {
    #[inline(always)]
    fn step<S: Simd>(&self, s: S, row: usize, place: Place) -> [S::F; 2] {
        let k = self.0.layout().in_features();
        let len = (16 * place.vectors).min(k - place.column);
        let mut lanes = [[0.0; 16]; 2];
        let decoded = &mut lanes.as_flattened_mut()[..len];
        decode_range(s, self.0, row * k + place.column, decoded);
        [s.load(&lanes[0]), s.load(&lanes[1])]
    }
}

impl<E: Element> Panels for DenseRows<'_, E> {
    fn outer(self) -> usize {
        self.outer
    }

    #[inline(always)]
    fn decode<S: Simd, P: Precision>(self, s: S, place: Place, out: &mut [[u32; 16]]) {
        let last = self.outer() - 1;
        let row = |column: usize| {
            let row = (place.column + column).min(last);
            &self.values[row * self.stride + place.start..][..place.depth]
        };
        let words = place.depth / P::STEPS;
        let block = 16 * P::STEPS;
        let blocks = place.depth / block;
        let mut buffer = [0.0; LARGEST_DEPTH];
        for v in 0..place.vectors {
            let rows: [&[E]; 16] = std::array::from_fn(|lane| row(16 * v + lane));
            for at in 0..blocks {
                let lanes = rows.map(|row| P::words_16(s, &row[at * block..]));
                let out = out[at * 16 * place.vectors + v..].iter_mut();
                for (to, lanes) in out.step_by(place.vectors).zip(s.transpose(lanes)) {
                    s.store_u(lanes, to);
                }
            }
            if blocks * 16 < words || words * P::STEPS < place.depth {
                for (lane, row) in rows.iter().enumerate() {
                    let rest = &row[blocks * block..];
                    let decoded = &mut buffer[..rest.len()];
                    decoded
                        .iter_mut()
                        .zip(rest)
                        .for_each(|(to, from)| *to = from.to_f32());
                    set_column::<P>(
                        decoded,
                        &mut out[blocks * 16 * place.vectors..],
                        16 * v + lane,
                        place.vectors,
                    );
                }
            }
        }
    }
}

impl<E: Element> Panels for DenseColumns<'_, E> {
    fn outer(self) -> usize {
        self.outer
    }

    #[inline(always)]
    fn decode<S: Simd, P: Precision>(self, s: S, place: Place, out: &mut [[u32; 16]]) {
        by_steps::<S, P, _>(s, self, place, out);
    }
}

impl<E: Element> Steps for DenseColumns<'_, E> {
    #[inline(always)]
    fn step<S: Simd>(&self, s: S, row: usize, place: Place) -> [S::F; 2] {
        let len = (16 * place.vectors).min(self.outer - place.column);
        let row = &self.values[row * self.stride + place.column..][..len];
        let mut vectors = [s.splat(0.0); 2];
        let (whole, rest) = row.as_chunks::<16>();
        for (vector, values) in vectors.iter_mut().zip(whole) {
            *vector = E::load_16(s, values);
        }
        if !rest.is_empty() {
            let mut lanes = [0.0; 16];
            for (lane, value) in lanes.iter_mut().zip(rest) {
                *lane = value.to_f32();
            }
            vectors[whole.len()] = s.load(&lanes);
        }
        vectors
    }
}
