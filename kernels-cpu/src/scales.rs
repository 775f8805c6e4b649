//! The scales of blocks and their minima, decoded.
//!
//! Plain loops, which vectorise in the kernels that they are inlined into. Multiplying and adding round once each, as the
//! peers do.

use nf4::{MatrixRef, SUPERBLOCK, Scales, exponent_value, f16_value};

use crate::double_quant;
use crate::simd::Simd;

/// Writes the scales of consecutive blocks from `first` on, and as many minima if the format has any.
#[inline(always)]
pub(crate) fn decode<S: Simd, const MINIMA: bool>(
    s: S,
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
            nested::<true>(w, first, scales, minima);
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
        Scales::Nested => nested::<false>(w, first, scales, minima),
        _ => double_quant::decode_scales(s, w, first, scales),
    }
}

/// Does [`decode`] for blocks of superblocks.
#[inline(always)]
fn nested<const MINIMA: bool>(
    w: MatrixRef<'_>,
    first: usize,
    mut scales: &mut [f32],
    mut minima: &mut [f32],
) {
    let mut block = first;
    while !scales.is_empty() {
        let (of_superblock, words) = superblock::<MINIMA>(w, block);
        let mut decoded = [[0.0; 16]; 2];
        decode_superblock::<MINIMA>(words, &mut decoded);
        let within = block % of_superblock;
        let len = (of_superblock - within).min(scales.len());
        let (these, rest) = scales.split_at_mut(len);
        these.copy_from_slice(&decoded[0][within..][..len]);
        scales = rest;
        if MINIMA {
            let (these, rest) = minima.split_at_mut(len);
            these.copy_from_slice(&decoded[1][within..][..len]);
            minima = rest;
        }
        block += len;
    }
}

/// Returns the blocks of a superblock, and the words of the one that `block` is in.
#[inline(always)]
fn superblock<const MINIMA: bool>(w: MatrixRef<'_>, block: usize) -> (usize, &[u32; 5]) {
    // 16 factors either way: of 16 scales, or of 8 scales and 8 minima.
    let of_superblock = if MINIMA { 8 } else { 16 };
    debug_assert_eq!(
        SUPERBLOCK / w.layout().block_format().block_size,
        of_superblock
    );
    let (superblocks, _) = w.absmax().as_chunks();
    (of_superblock, &superblocks[block / of_superblock])
}

#[inline(always)]
fn decode_superblock<const MINIMA: bool>(words: &[u32; 5], decoded: &mut [[f32; 16]; 2]) {
    let [scale, minimum] = [f16_value(words[0] & 0xffff), f16_value(words[0] >> 16)];
    let factor = |i: usize| byte(&words[1..], i);
    if MINIMA {
        let [scales, minima] = decoded;
        for (i, decoded) in scales[..8].iter_mut().enumerate() {
            *decoded = scale * factor(i) as f32;
        }
        for (i, decoded) in minima[..8].iter_mut().enumerate() {
            *decoded = minimum * factor(8 + i) as f32;
        }
    } else {
        for (i, decoded) in decoded[0].iter_mut().enumerate() {
            *decoded = scale * f32::from(factor(i) as i8);
        }
    }
}

/// Returns the scale of one block, and its minimum if the format has minima.
#[inline(always)]
pub(crate) fn of_block<S: Simd, const MINIMA: bool>(
    s: S,
    w: MatrixRef<'_>,
    block: usize,
) -> [f32; 2] {
    let (format, words) = (w.layout().block_format(), w.absmax());
    if MINIMA {
        if format.scales == Scales::F16WithMinimum {
            let word = words[block];
            return [f16_value(word & 0xffff), f16_value(word >> 16)];
        }
        let (of_superblock, words) = superblock::<true>(w, block);
        let i = block % of_superblock;
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
            let (of_superblock, words) = superblock::<false>(w, block);
            let factor = byte(&words[1..], block % of_superblock);
            f16_value(words[0] & 0xffff) * f32::from(factor as i8)
        }
        _ => {
            let mut scale = [0.0];
            double_quant::decode_scales(s, w, block, &mut scale);
            scale[0]
        }
    };
    [scale, 0.0]
}

/// Returns byte `i` of words, the lowest first.
#[inline(always)]
fn byte(words: &[u32], i: usize) -> u32 {
    words[i / 4] >> (8 * (i % 4)) & 255
}
