//! Decoding a panel of `W` into the order in which the register tile reads it: `[depth][width]`, where the width is
//! that of the tile.

use crate::dequantize::decode_range;
use crate::double_quant::decode_scales;
use crate::matrix::MatrixRef;
use crate::simd::Simd;

/// Most steps along the sum in one panel.
pub(super) const MAX_DEPTH: usize = 640;

/// Blocks that a row's part of a panel can touch: the smallest are 32 long, and both ends may be partial.
const MAX_BLOCKS: usize = MAX_DEPTH / 32 + 2;

/// Rows `row..row + width` of `W` (as columns of the panel), their columns `start..start + depth`. Columns of the panel
/// beyond the last row repeat it.
#[inline(always)]
pub(super) fn decode_rows<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    row: usize,
    start: usize,
    depth: usize,
    out: &mut [f32],
) {
    let [n, k] = w.layout().shape();
    // The lanes of a gather reach 15 rows ahead with 32-bit indices.
    if !k.is_multiple_of(8) || !start.is_multiple_of(8) || k > i32::MAX as usize / 16 {
        return decode_rows_one_by_one(s, w, row, start, depth, out);
    }
    let size = w.layout().config().block_size;
    let block_words = size / 8;
    let table = s.table(w.layout().config().codebook.values());
    let words = depth / 8;
    let (out, _) = out.as_chunks_mut::<16>();
    for v in 0..S::TILE_VECTORS {
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
            let out = &mut out[8 * word * S::TILE_VECTORS..];
            for j in 0..8 {
                let value = s.lookup(table, s.shift_right(codes, 4 * j));
                s.store(
                    s.mul(value, scale),
                    &mut out[j as usize * S::TILE_VECTORS + v],
                );
            }
        }
    }
}

/// [`decode_rows`] for rows that do not begin at a word.
#[inline(always)]
fn decode_rows_one_by_one<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    row: usize,
    start: usize,
    depth: usize,
    out: &mut [f32],
) {
    let [n, k] = w.layout().shape();
    let width = 16 * S::TILE_VECTORS;
    let mut buffer = [0.0; MAX_DEPTH];
    for column in 0..width {
        let decoded = &mut buffer[..depth];
        decode_range(s, w, (row + column).min(n - 1) * k + start, decoded);
        out[column..]
            .iter_mut()
            .step_by(width)
            .zip(&*decoded)
            .for_each(|(out, value)| *out = *value);
    }
}

/// Columns `column..column + width` of `W`, its rows `start..start + depth`. Columns of the panel beyond the last are 0.
#[inline(always)]
pub(super) fn decode_columns<S: Simd>(
    s: S,
    w: MatrixRef<'_>,
    column: usize,
    start: usize,
    depth: usize,
    out: &mut [f32],
) {
    let [_, k] = w.layout().shape();
    let width = 16 * S::TILE_VECTORS;
    let rows = (start..start + depth).zip(out.chunks_exact_mut(width));
    if !k.is_multiple_of(width) {
        let len = width.min(k - column);
        for (row, out) in rows {
            out[len..].fill(0.0);
            decode_range(s, w, row * k + column, &mut out[..len]);
        }
        return;
    }
    // The panel's part of a row begins at a multiple of 16 or 32 and is as long: it lies in one block.
    let config = w.layout().config();
    let table = s.table(config.codebook.values());
    for (row, out) in rows {
        let at = row * k + column;
        let mut scale = [0.0];
        decode_scales(s, w, at / config.block_size, &mut scale);
        let scale = s.splat(scale[0]);
        let (words, _) = w.packed()[at / 8..].as_chunks::<2>();
        for (words, out) in words.iter().zip(out.as_chunks_mut::<16>().0) {
            s.store(s.mul(s.lookup(table, s.codes(words)), scale), out);
        }
    }
}
