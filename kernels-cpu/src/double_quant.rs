//! Double quantization: the scales of the blocks, themselves quantized to 8 bits, there and back.

use nf4::{Layout, NESTED_BLOCK, NESTED_MAP, Scales, dynamic_map, mean, midpoints};
use rayon::prelude::*;

use crate::codebook::{BlockScales, DoubleQuant};
use crate::cpu::Cpu;
use crate::simd::{Simd, kernel};

/// Returns the `absmax` words for the scales of all blocks, doubly quantized or not as the layout says.
pub(crate) fn encode_scales(cpu: Cpu, layout: Layout, scales: &[f32]) -> Vec<u32> {
    if layout.block_format().scales == Scales::F32 {
        return bytemuck::cast_slice(scales).to_vec();
    }
    let offset = mean(scales);
    let map = dynamic_map();
    let midpoints = midpoints(map);
    let mut words = vec![0; layout.absmax_words()];
    let (codes, rest) = words.split_at_mut(layout.scale_words().end);
    let (nested, rest) = rest.split_at_mut(layout.nested_blocks());
    codes
        .par_chunks_mut(NESTED_BLOCK / 4)
        .zip(nested.par_iter_mut())
        .zip(scales.par_chunks(NESTED_BLOCK))
        .with_min_len(cpu.threads.min_len(16))
        .for_each(|((codes, nested), scales)| {
            *nested = encode_nested_block(cpu.isa, scales, offset, &midpoints, codes).to_bits();
        });
    rest[0] = offset.to_bits();
    rest[1..].copy_from_slice(bytemuck::cast_slice(map));
    words
}

kernel! {
    /// Encodes up to 256 scales into 8-bit codes; returns their nested scale.
    fn encode_nested_block(scales: &[f32], offset: f32, midpoints: &[f32; NESTED_MAP], codes: &mut [u32]) -> f32
        = encode_nested;
}

#[inline(always)]
fn encode_nested<S: Simd>(
    s: S,
    scales: &[f32],
    offset: f32,
    midpoints: &[f32; NESTED_MAP],
    codes: &mut [u32],
) -> f32 {
    let mut centred = [0.0; NESTED_BLOCK];
    centred
        .iter_mut()
        .zip(scales)
        .for_each(|(centred, scale)| *centred = scale - offset);
    let (chunks, _) = centred.as_chunks::<16>();
    let mut largest = s.splat_u(0);
    for chunk in chunks {
        largest = s.max_magnitude(largest, s.load(chunk));
    }
    let nested = f32::from_bits(s.max_lane(largest));
    if nested == 0.0 {
        // bitsandbytes leaves code 0 here; whatever the code, it decodes to the offset.
        return nested;
    }
    let inverse = s.splat((1.0 / nested).min(f32::MAX));
    for (chunk, codes) in chunks.iter().zip(codes.chunks_mut(4)) {
        let value = s.mul(s.load(chunk), inverse);
        let mut index = s.splat_u(0);
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            let probe = s.add_u(index, s.splat_u(step - 1));
            // SAFETY: the steps left, this one included, sum to 255 at most, so the probe is at most 254.
            let midpoint = unsafe { s.gather(midpoints, probe) };
            index = s.add_where_less(index, step, midpoint, value);
        }
        let mut lanes = [0; 16];
        s.store_u(index, &mut lanes);
        for (word, lanes) in codes.iter_mut().zip(lanes.as_chunks::<4>().0) {
            *word = lanes.iter().rev().fold(0, |word, code| word << 8 | code);
        }
    }
    // The filling of a short block has been encoded too; its codes are to be 0.
    let filled = codes.len() * 4 - scales.len();
    if let Some(last) = codes.last_mut() {
        *last &= u32::MAX >> (8 * filled);
    }
    nested
}

/// Writes the scales of consecutive blocks from `first` on, multiplying and adding with a rounding each, as
/// bitsandbytes does (a fused multiply-add would not be bit-exact).
#[inline(always)]
pub(crate) fn decode_scales<S: Simd>(s: S, scales: BlockScales<'_>, first: usize, out: &mut [f32]) {
    let words = scales.words;
    let Some(double_quant) = scales.double_quant else {
        for (out, word) in out.iter_mut().zip(&words[first..]) {
            *out = f32::from_bits(*word);
        }
        return;
    };
    let DoubleQuant {
        nested,
        map,
        offset,
    } = double_quant;
    let one = |block: usize| {
        let code = words[block / 4] >> (8 * (block % 4)) & 255;
        map[code as usize] * f32::from_bits(nested[block / NESTED_BLOCK]) + offset
    };
    let head = (first.next_multiple_of(16) - first).min(out.len());
    let (before, rest) = out.split_at_mut(head);
    before
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(first + i));
    let (chunks, after) = rest.as_chunks_mut::<16>();
    let mut block = first + head;
    for chunk in chunks {
        let codes = &words[block / 4..block / 4 + 4];
        let codes = s.widen([codes[0], codes[1], codes[2], codes[3]]);
        // SAFETY: a byte is below 256, the length of the map.
        let value = unsafe { s.gather(map, codes) };
        // 16 blocks from a multiple of 16 share their nested scale.
        let nested = s.splat(f32::from_bits(nested[block / NESTED_BLOCK]));
        s.store(s.add(s.mul(value, nested), s.splat(offset)), chunk);
        block += 16;
    }
    after
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = one(block + i));
}
