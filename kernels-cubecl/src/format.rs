//! What the words of a weight mean, and the handles that hold them.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::decode::{ScalesLaunch, WordsLaunch};

/// The 16 values of a codebook, as f32 bit patterns so that it can identify a kernel instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeTable {
    /// The value of each code.
    pub(crate) values: [u32; 16],
    /// The code of each rank, values rising.
    pub(crate) codes_by_rank: [u32; 16],
    /// The midpoints between values of neighbouring rank.
    pub(crate) midpoints: [u32; 15],
}

impl CodeTable {
    /// A codebook from the value of each code, the codes by rising value, and the midpoints between
    /// neighbouring values; the host implementation's own, so that both round alike.
    pub fn new(values: &[f32; 16], codes_by_rank: &[u32; 16], midpoints: &[f32; 15]) -> Self {
        Self {
            values: values.map(f32::to_bits),
            codes_by_rank: *codes_by_rank,
            midpoints: midpoints.map(f32::to_bits),
        }
    }
}

/// How a matrix is, or is to be, quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// What the codes stand for.
    pub table: CodeTable,
    /// Elements of the flattened matrix that share a scale: a power of two of at least 8.
    pub block_size: usize,
    /// Whether the scales are quantized to 8 bits in blocks of [`NESTED_BLOCK`].
    pub double_quant: bool,
}

/// Scales that share a nested scale.
pub const NESTED_BLOCK: usize = 256;
/// Entries of the 8-bit map.
pub const NESTED_MAP: usize = 256;

/// A quantized `[out_features, in_features]` matrix on a device.
///
/// `packed` holds eight codes a word, element `i` of the flattened matrix in bits
/// `4 * (i % 8)..` of word `i / 8`. `absmax` holds, without double quantization, an f32 bit pattern
/// a block; with it, one after another, the blocks' 8-bit codes (four a word, low byte first), the
/// nested scales, the offset and the 256 values of the 8-bit map.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The 4-bit codes.
    pub packed: Handle,
    /// The scales.
    pub absmax: Handle,
    /// Rows.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
    /// What the words mean.
    pub format: Format,
}

impl Weight {
    /// Elements of the dense matrix.
    pub fn elements(&self) -> usize {
        self.out_features * self.in_features
    }

    /// Codes and scales as a kernel argument.
    pub(crate) fn words_arg(&self) -> WordsLaunch {
        WordsLaunch::new(self.packed_arg(), self.scales_arg())
    }

    /// The codes as a kernel argument.
    pub(crate) fn packed_arg(&self) -> BufferArg {
        let sections = Sections::new(self.elements(), &self.format);
        // SAFETY: the length is that of the format, which the owner of the handles vouches for.
        unsafe { BufferArg::from_raw_parts(self.packed.clone(), sections.packed_words) }
    }

    /// The scales as a kernel argument.
    pub(crate) fn scales_arg(&self) -> ScalesLaunch {
        let sections = Sections::new(self.elements(), &self.format);
        // SAFETY: as for the codes.
        let absmax =
            unsafe { BufferArg::from_raw_parts(self.absmax.clone(), sections.absmax_words) };
        ScalesLaunch::new(
            absmax,
            self.format.block_size.trailing_zeros(),
            sections.nested as u32,
            sections.offset as u32,
            0,
            self.format.double_quant,
        )
    }
}

/// Where things lie in the two buffers.
pub(crate) struct Sections {
    pub(crate) packed_words: usize,
    pub(crate) absmax_words: usize,
    pub(crate) blocks: usize,
    pub(crate) nested_blocks: usize,
    /// First nested scale in `absmax`.
    pub(crate) nested: usize,
    /// The offset in `absmax`; the map follows it.
    pub(crate) offset: usize,
}

impl Sections {
    pub(crate) fn new(elements: usize, format: &Format) -> Self {
        let blocks = elements.div_ceil(format.block_size);
        let nested_blocks = blocks.div_ceil(NESTED_BLOCK);
        let nested = blocks.div_ceil(4);
        let offset = nested + nested_blocks;
        let absmax_words = if format.double_quant {
            offset + 1 + NESTED_MAP
        } else {
            blocks
        };
        Self {
            packed_words: elements.div_ceil(8),
            absmax_words,
            blocks,
            nested_blocks,
            nested,
            offset,
        }
    }
}
