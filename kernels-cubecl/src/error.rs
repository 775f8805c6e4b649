//! The reasons for which a launch is refused.

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use nf4::{Format, Layout, QuantConfig};

/// The reason for which a launch is refused. Nothing has been launched when one of these is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The element type is not a float that the kernels are written for, or the device lacks it.
    #[error(
        "{operation} cannot work in {dtype:?} on this device: use f32, or f16 or bf16 where the device has it"
    )]
    UnsupportedType {
        /// The operation, such as `matmul`.
        operation: &'static str,
        /// The type that was given.
        dtype: ElemType,
    },
    /// The operation takes f32 alone.
    #[error("{operation} takes f32, not {dtype:?}: cast it first")]
    NotSingle {
        /// The operation, such as `quantize`.
        operation: &'static str,
        /// The type that was given.
        dtype: ElemType,
    },
    /// Two operands do not fit each other.
    #[error("{operation}: the {what} has {actual} where {expected} are needed")]
    ShapeMismatch {
        /// The operation.
        operation: &'static str,
        /// The operand and its dimension.
        what: &'static str,
        /// The length that it must have.
        expected: usize,
        /// The length that it has.
        actual: usize,
    },
    /// The weight's format is one that files have, which nothing here quantizes to.
    #[error("{operation} has no rule for {format}, which files have: quantize to nf4, fp4 or int4")]
    UnservedFormat {
        /// The operation.
        operation: &'static str,
        /// The format.
        format: Format,
    },
    /// The kernels index with 32 bits.
    #[error(
        "the {what} has {elements} elements but the kernels index at most 2^31 - 1: split it by rows"
    )]
    TooLarge {
        /// The operand.
        what: &'static str,
        /// Its number of elements.
        elements: usize,
    },
    /// No kernel for the operation fits the device.
    #[error("{operation} has no kernel that this device can run: {reason}")]
    Unavailable {
        /// The operation.
        operation: &'static str,
        /// The trait that the device or the shape lacks.
        reason: String,
    },
    /// The dispatch grid would exceed the device's limit in one dimension.
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

/// Refuses formats that are not quantized to.
pub(crate) fn check_format(
    operation: &'static str,
    layout: Layout,
) -> Result<QuantConfig, KernelError> {
    layout.config().ok_or(KernelError::UnservedFormat {
        operation,
        format: layout.format(),
    })
}

/// Refuses two lengths that must be equal and are not.
pub(crate) fn check_length(
    operation: &'static str,
    what: &'static str,
    actual: usize,
    expected: usize,
) -> Result<(), KernelError> {
    if actual == expected {
        return Ok(());
    }
    Err(KernelError::ShapeMismatch {
        operation,
        what,
        expected,
        actual,
    })
}

/// Refuses every type but f32.
pub(crate) fn check_single(operation: &'static str, dtype: ElemType) -> Result<(), KernelError> {
    if dtype == ElemType::Float(FloatKind::F32) {
        Ok(())
    } else {
        Err(KernelError::NotSingle { operation, dtype })
    }
}

/// Returns whether the kernels are written for the type: f32, f16 or bf16.
pub const fn is_served(dtype: ElemType) -> bool {
    matches!(
        dtype,
        ElemType::Float(FloatKind::F32 | FloatKind::F16 | FloatKind::BF16)
    )
}

/// Refuses a type that the kernels are not written for, or that the device does not compute with.
///
/// # Errors
/// [`KernelError::UnsupportedType`].
pub fn check_float(
    client: &Client,
    operation: &'static str,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let usage = client.properties().type_usage(dtype);
    if is_served(dtype) && usage.is_superset(TypeUsage::Buffer | TypeUsage::Conversion) {
        Ok(())
    } else {
        Err(KernelError::UnsupportedType { operation, dtype })
    }
}
