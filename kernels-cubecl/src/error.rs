//! What the kernels refuse.

use cubecl::ir::ElemType;

/// Why a launch was refused. Nothing has been launched when one of these is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The element type is not a float that the kernels are written for, or the device lacks it.
    #[error(
        "{operation} cannot work in {dtype:?} on this device: use f32, or f16 or bf16 where the device has it"
    )]
    UnsupportedType {
        /// What was asked for, such as `matmul`.
        operation: &'static str,
        /// The type that was asked for.
        dtype: ElemType,
    },
    /// The kernels index with 32 bits.
    #[error(
        "the {what} has {elements} elements but the kernels index at most 2^31 - 1: split it by rows"
    )]
    TooLarge {
        /// Which operand.
        what: &'static str,
        /// How many elements it has.
        elements: usize,
    },
    /// No kernel for the operation fits the device.
    #[error("{operation} has no kernel that this device can run: {reason}")]
    Unavailable {
        /// What was asked for.
        operation: &'static str,
        /// What the device or the shape lacks.
        reason: String,
    },
    /// The dispatch grid would exceed what the device allows in one dimension.
    #[error(
        "{rows} rows need {cubes} cubes in one dimension but this device allows {limit}: split the batch"
    )]
    TooManyRows {
        /// Rows of the input.
        rows: usize,
        /// Cubes that they would take.
        cubes: u32,
        /// The device's limit.
        limit: u32,
    },
}

/// Refuses what 32-bit indices cannot reach.
pub(crate) fn check_size(what: &'static str, elements: usize) -> Result<u32, KernelError> {
    // Half of the 32 bits, so that the padding of a launch grid cannot wrap an index either.
    i32::try_from(elements)
        .map(|elements| elements as u32)
        .map_err(|_| KernelError::TooLarge { what, elements })
}
