//! The error type of the crate.

use crate::codebook::Codebook;
use crate::gguf::GgufFormat;

/// The reason why a matrix was not quantized, or why a quantized one was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The block size is not one of the powers of two that the format knows.
    #[error(
        "block size {block_size} is not a power of two from 32 to 4096; use 64 unless in doubt"
    )]
    BlockSize {
        /// The refused block size.
        block_size: usize,
    },
    /// The matrix has more elements than this machine can address once decoded.
    #[error(
        "a matrix of shape [{}, {}] is too large to address; split it by rows",
        shape[0],
        shape[1]
    )]
    TooLarge {
        /// The refused shape, `[out_features, in_features]`.
        shape: [usize; 2],
    },
    /// The rows of the matrix are not whole blocks of the format.
    #[error(
        "a matrix of shape [{}, {}] has no {format}: its rows must be multiples of {}",
        shape[0],
        shape[1],
        format.file_block()
    )]
    RowBlocks {
        /// The format.
        format: GgufFormat,
        /// The refused shape, `[out_features, in_features]`.
        shape: [usize; 2],
    },
    /// The bytes of a file's blocks do not fill the shape that was given with them.
    #[error(
        "{found} bytes were given for shape [{}, {}] in {format}, which takes {expected}; the file is damaged",
        shape[0],
        shape[1]
    )]
    BlockBytes {
        /// The format.
        format: GgufFormat,
        /// The shape given, `[out_features, in_features]`.
        shape: [usize; 2],
        /// The bytes given.
        found: usize,
        /// The bytes needed.
        expected: usize,
    },
    /// A block's scale or minimum is infinite or not a number, or too large for f32.
    #[error(
        "the scale of block {block} of row {row} in {format} is not finite; the file is damaged, fetch it again"
    )]
    ScaleNotFinite {
        /// The format.
        format: GgufFormat,
        /// The row, in the file's order.
        row: usize,
        /// The block of that row.
        block: usize,
    },
    /// The slice of values does not fill the shape that was given with it.
    #[error(
        "{len} values were given for shape [{}, {}]; pass exactly its {} elements, row by row",
        shape[0],
        shape[1],
        shape[0].saturating_mul(shape[1])
    )]
    InputLength {
        /// The number of values given.
        len: usize,
        /// The shape given, `[out_features, in_features]`.
        shape: [usize; 2],
    },
    /// A value to quantize is infinite or not a number.
    #[error(
        "element {index} (row {row}, column {column}) is not finite; \
         look for a diverged or damaged weight before quantizing"
    )]
    NotFinite {
        /// Position in the flattened matrix.
        index: usize,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A value is so large that its block's scale cannot be computed with in f32 ([`Layout::largest_magnitude`]).
    ///
    /// [`Layout::largest_magnitude`]: crate::Layout::largest_magnitude
    #[error(
        "a weight of {largest:e} is too large to quantize, of {limit:e} at most in this matrix and format; look for a \
         diverged or damaged weight"
    )]
    Magnitude {
        /// The largest magnitude of the matrix.
        largest: f32,
        /// The largest that can be.
        limit: f32,
    },
    /// One of the word arrays of a quantized matrix has the wrong length.
    #[error(
        "`{part}` holds {len} u32 words where the layout needs {expected}; rebuild it with `quantize`"
    )]
    WordCount {
        /// `packed` or `absmax`.
        part: &'static str,
        /// The number of words given.
        len: usize,
        /// The number of words that the layout needs.
        expected: usize,
    },
    /// A state dict lacks one of the tensors of a quantized weight.
    #[error(
        "tensor `{name}` is missing; it belongs to a bitsandbytes 4-bit weight, fetch the checkpoint again"
    )]
    MissingTensor {
        /// Full name of the missing tensor.
        name: String,
    },
    /// A tensor of a state dict has a dtype that its role does not allow.
    #[error(
        "tensor `{name}` has dtype {found} where {expected} is needed; save the checkpoint again with bitsandbytes"
    )]
    TensorDtype {
        /// Full name of the tensor.
        name: String,
        /// The dtype found.
        found: &'static str,
        /// The dtype that its role allows.
        expected: &'static str,
    },
    /// A tensor of a state dict has a size that contradicts the weight's shape and block size.
    #[error(
        "tensor `{name}` has {found} bytes where {expected} are needed; the file is damaged or its quant_state lies"
    )]
    TensorSize {
        /// Full name of the tensor.
        name: String,
        /// Bytes found.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// A tensor of a state dict that scales the weight holds an infinity or NaN.
    #[error(
        "tensor `{name}` is not finite at position {index}; the checkpoint is damaged, fetch it again"
    )]
    TensorNotFinite {
        /// Full name of the tensor.
        name: String,
        /// Position of the first such entry.
        index: usize,
    },
    /// The JSON description of a quantized weight cannot be used.
    #[error(
        "tensor `{name}` is not a usable quant_state: {reason}; save the checkpoint again with bitsandbytes"
    )]
    QuantState {
        /// Full name of the tensor.
        name: String,
        /// The fault, and what would be right.
        reason: String,
    },
    /// The checkpoint's table of 16 values is not the codebook's.
    #[error(
        "tensor `{name}` is not the {codebook} codebook: entry {index} is {found} instead of {expected}; \
         dequantize with the tool that wrote it and quantize again"
    )]
    QuantMap {
        /// Full name of the tensor.
        name: String,
        /// The codebook that the quant_state names.
        codebook: Codebook,
        /// The first differing entry.
        index: usize,
        /// The checkpoint's value there.
        found: f32,
        /// The codebook's value there.
        expected: f32,
    },
    /// bitsandbytes has no such codebook or format, so there is no state dict to write.
    #[error(
        "bitsandbytes has no {format} data type; quantize with `nf4` or `fp4` to write its checkpoints"
    )]
    NotInBitsandbytes {
        /// The codebook or format of the matrix.
        format: &'static str,
    },
}
