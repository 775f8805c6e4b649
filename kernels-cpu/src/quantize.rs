//! Quantizing a dense matrix to 4 bits.

use nf4::{FormatError, Layout, QuantConfig, QuantizedMatrix};
use rayon::prelude::*;

use crate::cpu::Cpu;
use crate::double_quant::encode_scales;
use crate::element::Element;
use crate::simd::{Simd, kernel};

/// Elements a task encodes at least: 128 KiB of f32, small enough for the L2 cache.
const CHUNK: usize = 32 * 1024;

/// Quantizes a row-major matrix of `shape` = `[out_features, in_features]` (bitsandbytes `quantize_4bit`).
///
/// The code of `x` is the rank of the codebook value nearest to `x * (1 / absmax)`, ties to the lower value.
/// The result does not depend on the machine or the number of threads.
///
/// # Errors
/// [`FormatError::BlockSize`], [`FormatError::TooLarge`], [`FormatError::InputLength`] if `values` does not fill the shape, and
/// [`FormatError::NotFinite`] at the first infinity or NaN, and [`FormatError::Magnitude`].
pub fn quantize<T: Element>(
    values: &[T],
    shape: [usize; 2],
    config: QuantConfig,
) -> Result<QuantizedMatrix, FormatError> {
    Cpu::default().quantize(values, shape, config)
}

impl Cpu {
    /// Quantizes a row-major matrix: [`quantize`].
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn quantize<T: Element>(
        self,
        values: &[T],
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
        let encoder = Encoder::new(config);
        let mut packed = vec![0; layout.packed_words()];
        let mut scales = vec![0.0; layout.blocks()];
        // A power of two, hence a whole number of blocks.
        let chunk = CHUNK.max(config.block_size);
        let finite = values
            .par_chunks(chunk)
            .zip(packed.par_chunks_mut(chunk / 8))
            .zip(scales.par_chunks_mut(chunk / config.block_size))
            .with_min_len(self.threads.min_len(1))
            .map(|((values, packed), scales)| {
                let mut scratch = Vec::new();
                let values = T::read(self.isa, values, &mut scratch);
                encode_blocks(self.isa, &encoder, values, packed, scales)
            })
            .reduce(|| true, |a, b| a && b);
        if !finite {
            return Err(first_not_finite(values, shape));
        }
        layout.check_magnitude(scales.iter().copied().fold(0.0, f32::max))?;
        let absmax = encode_scales(self, layout, &scales);
        QuantizedMatrix::from_parts(layout, packed, absmax)
    }
}

/// Returns the error that names the first value that is not finite: the kernels only learn that there is one.
fn first_not_finite<T: Element>(values: &[T], shape: [usize; 2]) -> FormatError {
    let index = values
        .iter()
        .position(|value| !value.to_f32().is_finite())
        .unwrap_or(values.len());
    let columns = shape[1].max(1);
    FormatError::NotFinite {
        index,
        row: index / columns,
        column: index % columns,
    }
}

/// The tables that a codebook is encoded with.
struct Encoder {
    block_size: usize,
    midpoints: [f32; 16],
    /// The code of each rank, as bit patterns so that a float table can hold them.
    codes: [f32; 16],
}

impl Encoder {
    fn new(config: QuantConfig) -> Self {
        let mut midpoints = [f32::INFINITY; 16];
        midpoints[..15].copy_from_slice(&config.codebook.midpoints());
        let codes = config.codebook.codes_by_rank().map(f32::from_bits);
        Self {
            block_size: config.block_size,
            midpoints,
            codes,
        }
    }
}

kernel! {
    /// Encodes whole blocks (the last may be short); returns false if a value is not finite.
    fn encode_blocks(encoder: &Encoder, values: &[f32], packed: &mut [u32], scales: &mut [f32]) -> bool = encode;
}

#[inline(always)]
fn encode<S: Simd>(
    s: S,
    encoder: &Encoder,
    values: &[f32],
    packed: &mut [u32],
    scales: &mut [f32],
) -> bool {
    let size = encoder.block_size;
    let tables = [s.table(&encoder.midpoints), s.table(&encoder.codes)];
    let mut finite = true;
    for ((block, packed), scale) in values
        .chunks(size)
        .zip(packed.chunks_mut(size / 8))
        .zip(scales)
    {
        let (chunks, tail) = block.as_chunks::<32>();
        let mut filled = [0.0; 32];
        filled[..tail.len()].copy_from_slice(tail);
        let mut largest = [s.splat_u(0); 2];
        for chunk in chunks.iter().chain([&filled]) {
            let (halves, _) = chunk.as_chunks::<16>();
            largest[0] = s.max_magnitude(largest[0], s.load(&halves[0]));
            largest[1] = s.max_magnitude(largest[1], s.load(&halves[1]));
        }
        let largest = s.max_lane(largest[0]).max(s.max_lane(largest[1]));
        finite &= largest < f32::INFINITY.to_bits();
        let absmax = f32::from_bits(largest);
        *scale = absmax;
        // The bound keeps blocks of zeros, and of numbers so small that the reciprocal overflows, from making NaNs.
        let inverse = s.splat((1.0 / absmax).min(f32::MAX));
        let (groups, rest) = packed.as_chunks_mut::<4>();
        for (chunk, words) in chunks.iter().zip(groups.iter_mut()) {
            *words = encode_32(s, tables, chunk, inverse);
        }
        if !tail.is_empty() {
            let mut words = encode_32(s, tables, &filled, inverse);
            for (i, word) in words.iter_mut().enumerate() {
                let codes = tail.len().saturating_sub(8 * i).min(8);
                *word &= !(u32::MAX.checked_shl(4 * codes as u32).unwrap_or(0));
            }
            let last = groups
                .get_mut(chunks.len())
                .map_or(rest, |words| &mut words[..]);
            let len = last.len();
            last.copy_from_slice(&words[..len]);
        }
    }
    finite
}

/// Returns the words of 32 values; `tables` are the midpoints and the codes by rank.
#[inline(always)]
fn encode_32<S: Simd>(s: S, tables: [S::Table; 2], values: &[f32; 32], inverse: S::F) -> [u32; 4] {
    // Written out, not as a closure: only functions can be made to inline, and out of line none of the instructions
    // would be.
    let (halves, _) = values.as_chunks::<16>();
    let low = s.rank(tables[0], s.mul(s.load(&halves[0]), inverse));
    let high = s.rank(tables[0], s.mul(s.load(&halves[1]), inverse));
    s.pack([
        s.bits(s.lookup(tables[1], low)),
        s.bits(s.lookup(tables[1], high)),
    ])
}
