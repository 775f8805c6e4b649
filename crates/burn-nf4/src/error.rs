//! The errors of a blockwise tensor and of its operands.

use burn_core::tensor::{DType, Device, ExecutionError};
use burn_operands::UnservedDevice;
use nf4::FormatError;

/// Why an operation on a [`BlockwiseTensor`](crate::BlockwiseTensor) was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockwiseTensorError {
    /// The quantization configuration, the shape or the words do not make an NF4 matrix.
    #[error(transparent)]
    Format(#[from] FormatError),

    /// This build of the crate has no operations for the device.
    #[error(transparent)]
    Device(#[from] UnservedDevice),

    /// The dtype cannot take part in the operation.
    #[error(
        "{operation} does not work in {dtype:?} on {device}: cast the tensor to f32, or to f16 or \
         bf16 where the device has it"
    )]
    UnsupportedDType {
        /// The operation that was asked for.
        operation: &'static str,
        /// The dtype that was given.
        dtype: DType,
        /// The device, as it prints.
        device: String,
    },

    /// The last dimension of the input is not the one that the matrix contracts over.
    #[error(
        "{operation}: the input's last dimension is {actual} (shape {shape:?}) but the matrix \
         [{out_features}, {in_features}] needs {expected} there"
    )]
    ShapeMismatch {
        /// The operation that was asked for.
        operation: &'static str,
        /// The input's shape.
        shape: Vec<usize>,
        /// The input's last dimension.
        actual: usize,
        /// The value that it must have.
        expected: usize,
        /// Rows of the matrix.
        out_features: usize,
        /// Columns of the matrix.
        in_features: usize,
    },

    /// A tensor that should hold words holds another number of them, or other elements.
    #[error(
        "the {part} tensor must hold {expected} words of U32 for this layout, but holds {actual} \
         elements of {dtype:?}: use the tensors of one matrix with that matrix's layout"
    )]
    Words {
        /// `packed` or `absmax`.
        part: &'static str,
        /// Number of words that the layout needs.
        expected: usize,
        /// Number of elements that were given.
        actual: usize,
        /// Their dtype.
        dtype: DType,
    },

    /// Two tensors that must be on one device are not.
    #[error(
        "{operation}: the {what} is on {actual} but the packed words are on {expected}: move one with `to_device`"
    )]
    DeviceMismatch {
        /// The operation that was asked for.
        operation: &'static str,
        /// Which tensor lies elsewhere.
        what: &'static str,
        /// The device it lies on.
        actual: String,
        /// The device of the packed words.
        expected: String,
    },

    /// The factors of a LoRA layer fit neither its matrix nor each other.
    #[error(
        "blockwise lora_matmul: the factors are A {a:?} and B {b:?}, but on the matrix [{out_features}, {in_features}] they \
         must be [{in_features}, rank] and [rank, {out_features}] with one rank of at least 1"
    )]
    Factors {
        /// Shape of A.
        a: [usize; 2],
        /// Shape of B.
        b: [usize; 2],
        /// Rows of the matrix.
        out_features: usize,
        /// Columns of the matrix.
        in_features: usize,
    },

    /// What stands around fused layers does not fit them.
    #[error("blockwise fused_layers: {what} is {found}, but must be {expected}")]
    Around {
        /// The part that does not fit.
        what: &'static str,
        /// What it is.
        found: String,
        /// What the layers and their input ask for.
        expected: String,
    },

    /// A weight to quantize holds an infinity or a NaN.
    #[error(
        "the weight [{}, {}] holds a value that is not finite: look for a diverged or damaged weight \
         before quantizing",
        shape[0],
        shape[1]
    )]
    NotFinite {
        /// Shape of the weight.
        shape: [usize; 2],
    },

    /// Reading the words back from the device failed.
    #[error("reading the {part} back from the device failed: {source}")]
    Read {
        /// The values that were read.
        part: &'static str,
        /// The device's reason.
        source: ExecutionError,
    },
}

impl BlockwiseTensorError {
    pub(crate) fn unsupported(operation: &'static str, dtype: DType, device: &Device) -> Self {
        Self::UnsupportedDType {
            operation,
            dtype,
            device: format!("{device:?}"),
        }
    }
}
