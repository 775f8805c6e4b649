//! The format as plain loops, slow, which every kernel is held against.
//!
//! Nothing here depends on an instruction set, a thread count or a cache; each function is the definition it is named after.

use crate::codebook::Codebook;
use crate::config::QuantConfig;
use crate::direction::Direction;
use crate::double_quant::mean;
use crate::dynamic_map::{dynamic_map, midpoints};
use crate::error::FormatError;
use crate::format::{SUPERBLOCK, Scales, exponent_value, f16_value};
use crate::layout::{Layout, NESTED_BLOCK};
use crate::matrix::{MatrixRef, QuantizedMatrix};

/// Quantizes a row-major matrix of shape `[out_features, in_features]` (bitsandbytes `quantize_4bit`).
///
/// The code of `x` is that of the codebook value nearest to `x * (1 / absmax)`, ties to the lower value.
///
/// # Errors
/// [`FormatError::BlockSize`], [`FormatError::TooLarge`], [`FormatError::InputLength`] if `values` does not fill the shape, and
/// [`FormatError::NotFinite`] at the first infinity or NaN, and [`FormatError::Magnitude`].
pub fn quantize(
    values: &[f32],
    shape: [usize; 2],
    config: QuantConfig,
) -> Result<QuantizedMatrix, FormatError> {
    let layout = Layout::new(shape, config)?;
    if values.len() != layout.elements() {
        return Err(FormatError::InputLength {
            len: values.len(),
            shape,
        });
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(FormatError::NotFinite {
            index,
            row: index / shape[1],
            column: index % shape[1],
        });
    }
    let mut packed = vec![0; layout.packed_words()];
    let mut scales = Vec::with_capacity(layout.blocks());
    for (block, values) in values.chunks(config.block_size).enumerate() {
        let absmax = largest_magnitude(values);
        scales.push(absmax);
        for (i, value) in values.iter().enumerate() {
            let at = block * config.block_size + i;
            let code = nearest_code(config.codebook, value * reciprocal(absmax));
            packed[at / 8] |= code << (4 * (at % 8));
        }
    }
    layout.check_magnitude(largest_magnitude(&scales))?;
    QuantizedMatrix::from_parts(layout, packed, encode_scales(layout, &scales))
}

/// Returns every element decoded, row by row: `values[code] * absmax` (bitsandbytes `dequantize_4bit`), plus the minimum of the
/// block where the format has minima (gguf-py `dequantize`).
pub fn dequantize(w: MatrixRef<'_>) -> Vec<f32> {
    let (layout, packed) = (w.layout(), w.packed());
    let format = layout.block_format();
    let (codes, per_word) = (format.codes, format.codes.per_word());
    (0..layout.elements())
        .map(|i| {
            let code = packed[i / per_word] >> (codes.bits() * (i % per_word));
            let [scale, minimum] = scale_and_minimum(w, i / format.block_size);
            let scaled = codes.value(code) * scale;
            if format.scales.has_minima() {
                scaled + minimum
            } else {
                scaled
            }
        })
        .collect()
}

/// Returns the product of the rows of `x` and the decoded matrix, summed in f64.
///
/// # Panics
/// If the length of `x` is not that of whole rows.
pub fn matmul(w: MatrixRef<'_>, x: &[f32], direction: Direction) -> Vec<f32> {
    let in_features = w.layout().in_features();
    let [k, n] = direction.widths(w.layout().shape());
    if k == 0 {
        assert!(x.is_empty(), "matmul: rows of no elements hold no values");
        return Vec::new();
    }
    assert!(
        x.len().is_multiple_of(k),
        "matmul: `x` must hold whole rows of {k} values"
    );
    let dense = dequantize(w);
    let element = |p: usize, j: usize| match direction {
        Direction::Forward => dense[j * in_features + p],
        Direction::Transposed => dense[p * in_features + j],
    };
    x.chunks(k)
        .flat_map(|row| {
            (0..n).map(move |j| {
                let terms = (0..k).map(|p| f64::from(row[p]) * f64::from(element(p, j)));
                terms.sum::<f64>() as f32
            })
        })
        .collect()
}

/// Returns the scale of a block and its minimum; 0 where there are no minima.
fn scale_and_minimum(w: MatrixRef<'_>, block: usize) -> [f32; 2] {
    let (layout, words) = (w.layout(), w.absmax());
    let format = layout.block_format();
    let byte = |words: &[u32], i: usize| words[i / 4] >> (8 * (i % 4)) & 255;
    let half = |word: u32, i: usize| f16_value(word >> (16 * i) & 0xffff);
    let scale = match format.scales {
        Scales::F32 => f32::from_bits(words[block]),
        Scales::DoubleQuantized => {
            let value = f32::from_bits(words[layout.map_words()][byte(words, block) as usize]);
            let nested = f32::from_bits(words[layout.nested_words()][block / NESTED_BLOCK]);
            value * nested + f32::from_bits(words[layout.offset_word()])
        }
        Scales::F16 => half(words[block / 2], block % 2),
        Scales::F16WithMinimum => return [half(words[block], 0), half(words[block], 1)],
        Scales::Exponent => exponent_value(byte(words, block)),
        Scales::Nested | Scales::NestedWithMinimum => {
            let of_superblock = SUPERBLOCK / format.block_size;
            let len = format.scales.superblock_words(format.block_size);
            let words = &words[block / of_superblock * len..][..len];
            let (pair, factors, i) = (words[0], &words[1..], block % of_superblock);
            if format.scales == Scales::Nested {
                half(pair, 0) * f32::from(byte(factors, i) as i8)
            } else {
                let factors = [byte(factors, i), byte(factors, of_superblock + i)];
                return [
                    half(pair, 0) * factors[0] as f32,
                    half(pair, 1) * factors[1] as f32,
                ];
            }
        }
    };
    [scale, 0.0]
}

fn encode_scales(layout: Layout, scales: &[f32]) -> Vec<u32> {
    if layout.block_format().scales == Scales::F32 {
        return scales.iter().map(|scale| scale.to_bits()).collect();
    }
    let mut words = vec![0; layout.absmax_words()];
    let offset = mean(scales);
    let midpoints = midpoints(dynamic_map());
    for (group, scales) in scales.chunks(NESTED_BLOCK).enumerate() {
        let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
        let nested = largest_magnitude(&centred);
        words[layout.nested_words().start + group] = nested.to_bits();
        if nested == 0.0 {
            continue;
        }
        for (i, value) in centred.iter().enumerate() {
            let block = group * NESTED_BLOCK + i;
            let code = rank(&midpoints, value * reciprocal(nested));
            words[block / 4] |= code << (8 * (block % 4));
        }
    }
    words[layout.offset_word()] = offset.to_bits();
    for (word, value) in words[layout.map_words()].iter_mut().zip(dynamic_map()) {
        *word = value.to_bits();
    }
    words
}

fn largest_magnitude(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}

/// Returns the reciprocal. The bound keeps zeros, and numbers so small that the reciprocal overflows, from making NaNs.
fn reciprocal(largest: f32) -> f32 {
    (1.0 / largest).min(f32::MAX)
}

fn nearest_code(codebook: Codebook, value: f32) -> u32 {
    codebook.codes_by_rank()[rank(&codebook.midpoints(), value) as usize]
}

/// Counts the midpoints strictly below `value`: a tie takes the lower entry.
fn rank(midpoints: &[f32], value: f32) -> u32 {
    midpoints
        .iter()
        .filter(|midpoint| **midpoint < value)
        .count() as u32
}
