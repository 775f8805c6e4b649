//! Reading the scales of a weight inside a kernel.

use cubecl::prelude::*;
use nf4::{SUPERBLOCK, Scales as ScaleFormat};

use crate::format::CodeFormat;
use crate::rounding::rounded;

/// The scales of a weight as a kernel argument.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub(crate) struct Scales {
    absmax: Box<[u32]>,
    /// log2 of the block size.
    block_shift: u32,
    /// First nested scale of double quantization.
    nested: u32,
    /// The offset of double quantization; the 8-bit map follows it.
    offset: u32,
    /// Always 0, which no compiler can know: see [`rounded`].
    zero: u32,
    #[cube(comptime)]
    format: ScaleFormat,
}

/// Words of a superblock, of 16 blocks without minima or of 8 with.
const SUPERBLOCK_WORDS: u32 = ScaleFormat::Nested.superblock_words(16) as u32;
const _: () =
    assert!(ScaleFormat::NestedWithMinimum.superblock_words(32) as u32 == SUPERBLOCK_WORDS);

/// Returns the scale of element `element`.
#[cube]
pub(crate) fn scale_of(scales: &Scales, element: u32) -> f32 {
    let block = element >> scales.block_shift;
    match comptime!(scales.format) {
        ScaleFormat::F32 => f32::from_bits(scales.absmax[block as usize]),
        ScaleFormat::DoubleQuantized => {
            let word = scales.absmax[(block >> 2) as usize];
            let code = (word >> ((block & 3) * 8)) & 0xff;
            let nested = f32::from_bits(scales.absmax[(scales.nested + (block >> 8)) as usize]);
            let value = f32::from_bits(scales.absmax[(scales.offset + 1 + code) as usize]);
            let offset = f32::from_bits(scales.absmax[scales.offset as usize]);
            rounded(value * nested, scales.zero) + offset
        }
        ScaleFormat::F16 => half(scales.absmax[(block >> 1) as usize] >> ((block & 1) * 16)),
        ScaleFormat::F16WithMinimum => half(scales.absmax[block as usize]),
        ScaleFormat::Exponent => {
            // Four times `2^(exponent - 128)`.
            let exponent = byte_of(scales, 0u32, block);
            f32::from_bits((exponent + 1) << 23)
        }
        ScaleFormat::Nested => {
            let first = superblock(element);
            let factor = byte_of(scales, first + 1, block & 15);
            let signed = f32::cast_from(factor ^ 128) - f32::new(128.0);
            half(scales.absmax[first as usize]) * signed
        }
        ScaleFormat::NestedWithMinimum => {
            let first = superblock(element);
            let factor = byte_of(scales, first + 1, block & 7);
            half(scales.absmax[first as usize]) * f32::cast_from(factor)
        }
    }
}

/// Returns the minimum of the block of element `element`; 0 in formats that have no minima.
#[cube]
pub(crate) fn minimum_of(scales: &Scales, element: u32) -> f32 {
    match comptime!(scales.format) {
        ScaleFormat::F16WithMinimum => {
            half(scales.absmax[(element >> scales.block_shift) as usize] >> 16)
        }
        ScaleFormat::NestedWithMinimum => {
            let first = superblock(element);
            let factor = byte_of(scales, first + 3, (element >> scales.block_shift) & 7);
            half(scales.absmax[first as usize] >> 16) * f32::cast_from(factor)
        }
        _ => f32::new(0.0),
    }
}

/// Returns the element that a code's value stands for: times its scale and, in formats that have minima, plus its minimum.
///
/// With a minimum the product has few enough bits to be exact, so that it does not matter whether a compiler contracts the two.
#[cube]
pub(crate) fn scaled(value: f32, scale: f32, minimum: f32, #[comptime] codes: CodeFormat) -> f32 {
    if comptime!(codes.has_minima()) {
        value * scale + minimum
    } else {
        value * scale
    }
}

/// Returns what [`scaled`] does, of the lanes of vectors.
#[cube]
pub(crate) fn scaled_lanes<N: Size>(
    values: Vector<f32, N>,
    scales: Vector<f32, N>,
    minima: Vector<f32, N>,
    #[comptime] codes: CodeFormat,
) -> Vector<f32, N> {
    if comptime!(codes.has_minima()) {
        values * scales + minima
    } else {
        values * scales
    }
}

/// Returns the first word of the superblock of element `element`.
#[cube]
fn superblock(element: u32) -> u32 {
    element / comptime!(SUPERBLOCK as u32) * SUPERBLOCK_WORDS
}

/// Returns byte `i` of the words from `first` on.
#[cube]
fn byte_of(scales: &Scales, first: u32, i: u32) -> u32 {
    (scales.absmax[(first + (i >> 2)) as usize] >> ((i & 3) * 8)) & 255
}

/// Returns the number that the f16 bit pattern in the low half of `word` stands for, without subnormal numbers of f32, which
/// devices may take for 0.
#[cube]
fn half(word: u32) -> f32 {
    let magnitude = word & 0x7fff;
    // The exponents of f16 are 112 less than those of f32; subnormal numbers are multiples of 2^-24.
    let normal = f32::from_bits((magnitude << 13) + comptime!(112u32 << 23));
    let subnormal = f32::cast_from(magnitude) * f32::new(comptime!(1.0 / 16_777_216.0));
    let value = select(magnitude < 0x400, subnormal, normal);
    f32::from_bits(value.to_bits() | ((word & 0x8000) << 16))
}
