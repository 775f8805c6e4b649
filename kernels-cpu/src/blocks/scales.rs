//! The scales of blocks and their minima, decoded.
//!
//! Plain loops, which vectorise in the kernels that they are inlined into. Multiplying and adding round once each, as the
//! peers do.

use nf4::{MatrixRef, SUPERBLOCK, Scales, exponent_value, f16_value};

/// Words of a superblock, of 16 blocks without minima or of 8 with.
const SUPERBLOCK_WORDS: usize = Scales::Nested.superblock_words(16);
const _: () = assert!(Scales::NestedWithMinimum.superblock_words(32) == SUPERBLOCK_WORDS);

/// Writes the scales of consecutive blocks from `first` on, and as many minima if the format has any.
#[inline(always)]
pub(crate) fn decode<const MINIMA: bool>(
    w: MatrixRef<'_>,
    first: usize,
    scales: &mut [f32],
    minima: &mut [f32],
) {
    let (format, words) = (w.layout().block_format(), w.absmax());
    if MINIMA {
        if format.scales == Scales::F16WithMinimum {
            for ((scale, minimum), word) in scales.iter_mut().zip(minima).zip(&words[first..]) {
                *scale = f16_value(word & 0xffff);
                *minimum = f16_value(word >> 16);
            }
        } else {
            nested_with_minima(w, first, scales, minima);
        }
        return;
    }
    match format.scales {
        Scales::F16 => {
            let odd = first % 2;
            let (head, rest) = scales.split_at_mut(odd.min(scales.len()));
            for scale in head {
                *scale = f16_value(words[first / 2] >> 16);
            }
            let words = &words[first.div_ceil(2)..];
            let (pairs, last) = rest.as_chunks_mut::<2>();
            for (pair, word) in pairs.iter_mut().zip(words) {
                *pair = [f16_value(word & 0xffff), f16_value(word >> 16)];
            }
            for scale in last {
                *scale = f16_value(words[pairs.len()] & 0xffff);
            }
        }
        Scales::Exponent => {
            for (block, scale) in (first..).zip(scales) {
                *scale = exponent_value(byte(words, block));
            }
        }
        Scales::Nested => nested(w, first, scales),
        _ => unreachable!("no other scales are in blocks of files without minima"),
    }
}

/// Does [`decode`] for the blocks of superblocks.
#[inline(always)]
fn nested(w: MatrixRef<'_>, first: usize, scales: &mut [f32]) {
    let blocks = SUPERBLOCK / w.layout().block_format().block_size;
    debug_assert_eq!(blocks, 16);
    let head = (first.next_multiple_of(16) - first).min(scales.len());
    let (before, rest) = scales.split_at_mut(head);
    for (block, scale) in (first..).zip(before) {
        [*scale, _] = of_block::<false>(w, block);
    }
    let first = first + head;
    let (whole, after) = rest.as_chunks_mut::<16>();
    let (superblocks, _) = w.absmax().as_chunks::<SUPERBLOCK_WORDS>();
    let superblocks = &superblocks[(first / 16).min(superblocks.len())..];
    for (scales, words) in whole.iter_mut().zip(superblocks) {
        let scale = f16_value(words[0] & 0xffff);
        for (i, decoded) in scales.iter_mut().enumerate() {
            *decoded = scale * f32::from(byte(&words[1..], i) as i8);
        }
    }
    let first = first + 16 * whole.len();
    for (block, scale) in (first..).zip(after) {
        [*scale, _] = of_block::<false>(w, block);
    }
}

/// Does [`decode`] for the blocks of superblocks with minima.
#[inline(always)]
fn nested_with_minima(w: MatrixRef<'_>, first: usize, scales: &mut [f32], minima: &mut [f32]) {
    let blocks = SUPERBLOCK / w.layout().block_format().block_size;
    debug_assert_eq!(blocks, 8);
    let head = (first.next_multiple_of(8) - first).min(scales.len());
    let one = |block: usize, scale: &mut f32, minimum: &mut f32| {
        [*scale, *minimum] = of_block::<true>(w, block);
    };
    let (before, rest) = scales.split_at_mut(head);
    let (minima_before, minima_rest) = minima.split_at_mut(head);
    for (block, (scale, minimum)) in (first..).zip(before.iter_mut().zip(minima_before)) {
        one(block, scale, minimum);
    }
    let first = first + head;
    let (whole, after) = rest.as_chunks_mut::<8>();
    let (minima_whole, minima_after) = minima_rest.as_chunks_mut::<8>();
    let (superblocks, _) = w.absmax().as_chunks::<SUPERBLOCK_WORDS>();
    let superblocks = &superblocks[(first / 8).min(superblocks.len())..];
    for ((scales, minima), words) in whole.iter_mut().zip(minima_whole).zip(superblocks) {
        let [scale, minimum] = [f16_value(words[0] & 0xffff), f16_value(words[0] >> 16)];
        for (i, decoded) in scales.iter_mut().enumerate() {
            *decoded = scale * byte(&words[1..], i) as f32;
        }
        for (i, decoded) in minima.iter_mut().enumerate() {
            *decoded = minimum * byte(&words[3..], i) as f32;
        }
    }
    let first = first + 8 * whole.len();
    for (block, (scale, minimum)) in (first..).zip(after.iter_mut().zip(minima_after)) {
        one(block, scale, minimum);
    }
}

/// Returns the scale of one block, and its minimum if the format has minima.
#[inline(always)]
pub(crate) fn of_block<const MINIMA: bool>(w: MatrixRef<'_>, block: usize) -> [f32; 2] {
    let (format, words) = (w.layout().block_format(), w.absmax());
    let superblock = |blocks: usize| {
        let (superblocks, _) = words.as_chunks::<SUPERBLOCK_WORDS>();
        (superblocks[block / blocks], block % blocks)
    };
    if MINIMA {
        if format.scales == Scales::F16WithMinimum {
            let word = words[block];
            return [f16_value(word & 0xffff), f16_value(word >> 16)];
        }
        let (words, i) = superblock(8);
        let factors = [byte(&words[1..], i), byte(&words[3..], i)];
        return [
            f16_value(words[0] & 0xffff) * factors[0] as f32,
            f16_value(words[0] >> 16) * factors[1] as f32,
        ];
    }
    let scale = match format.scales {
        Scales::F16 => f16_value(words[block / 2] >> (16 * (block % 2)) & 0xffff),
        Scales::Exponent => exponent_value(byte(words, block)),
        Scales::Nested => {
            let (words, i) = superblock(16);
            f16_value(words[0] & 0xffff) * f32::from(byte(&words[1..], i) as i8)
        }
        _ => unreachable!("no other scales are in blocks of files without minima"),
    };
    [scale, 0.0]
}

/// Returns byte `i` of words, the lowest first.
#[inline(always)]
fn byte(words: &[u32], i: usize) -> u32 {
    words[i / 4] >> (8 * (i % 4)) & 255
}
