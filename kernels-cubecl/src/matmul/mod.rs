//! `x · Wᵀ` and `x · W` from packed words.
//!
//! - `tiled`: any shape and direction; decodes each tile of the weight once per tile of rows.
//! - `gemv`: few rows, forward: the weight is read once and nothing is staged.
//!
//! [`choose`] picks one.

mod gemv;
mod tiled;

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::error::{KernelError, check_size};
use crate::format::Weight;

/// Which product is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `x · Wᵀ`: `[m, in_features]` to `[m, out_features]`.
    Forward,
    /// `x · W`: `[m, out_features]` to `[m, in_features]`.
    Transposed,
}

/// The left operand: `m` rows of contiguous elements, `row_stride` elements apart.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The buffer, starting at the first row.
    pub handle: Handle,
    /// f32, f16 or bf16.
    pub dtype: ElemType,
    /// Number of rows.
    pub m: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
}

/// Up to this many rows, reading the weight should bound the time of a GPU, and staging it in shared
/// memory not pay; above it each decoded element serves so many rows that decoding it once matters
/// more. Reasoned, not measured on a GPU: on software Vulkan, eight rows are past the crossing already.
pub const GEMV_MAX_ROWS: usize = 8;

/// The kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `tiled`: any shape and direction.
    Tiled,
    /// `gemv`: few rows, forward.
    Gemv,
}

/// The kernel for a product with `m` rows.
///
/// Few rows in the transposed direction are nobody's use: generation runs forward only, and a
/// training step has batch × sequence rows.
pub fn choose(m: usize, direction: Direction) -> Kernel {
    if m <= GEMV_MAX_ROWS && direction == Direction::Forward {
        Kernel::Gemv
    } else {
        Kernel::Tiled
    }
}

/// Multiplies `x` by the weight, accumulating in f32, into a new contiguous buffer of `x`'s dtype.
///
/// Launches one kernel and returns at once.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`], [`KernelError::TooManyRows`].
pub fn matmul(
    client: &Client,
    x: Rows,
    weight: &Weight,
    direction: Direction,
) -> Result<Handle, KernelError> {
    check_float(client, "matmul", x.dtype)?;
    let (inner, outer) = match direction {
        Direction::Forward => (weight.in_features, weight.out_features),
        Direction::Transposed => (weight.out_features, weight.in_features),
    };
    let output_len = x.m * outer;
    check_size("output", output_len)?;
    check_size("input", x.m * x.row_stride.max(inner))?;
    let output_bytes = output_len * x.dtype.size();
    if inner == 0 {
        // An empty sum. Buffers without elements cannot be bound, and zero is all zero bits.
        return Ok(client.create_from_slice(&vec![0; output_bytes]));
    }
    let output = client.empty(output_bytes);
    if output_len == 0 {
        return Ok(output);
    }
    let problem = Problem {
        x_len: (x.m - 1) * x.row_stride + inner,
        x,
        weight,
        inner,
        outer,
        output: &output,
    };
    match choose(problem.x.m, direction) {
        Kernel::Tiled => tiled::launch(client, &problem, direction)?,
        Kernel::Gemv => gemv::launch(client, &problem)?,
    }
    Ok(output)
}

/// A product whose sizes have been checked.
struct Problem<'a> {
    x: Rows,
    /// Elements from the first to the last that is read.
    x_len: usize,
    weight: &'a Weight,
    /// Length of the contraction.
    inner: usize,
    /// Columns of the output.
    outer: usize,
    output: &'a Handle,
}

impl Problem<'_> {
    /// Whether rows of the weight begin on a packed word.
    fn aligned(&self) -> bool {
        self.weight.in_features.is_multiple_of(8)
    }

    fn x_arg(&self) -> BufferArg {
        // SAFETY: the caller of `matmul` vouches for rows and stride, from which the length follows.
        unsafe { BufferArg::from_raw_parts(self.x.handle.clone(), self.x_len) }
    }

    fn output_arg(&self) -> BufferArg {
        // SAFETY: `matmul` allocated the output with this many elements.
        unsafe { BufferArg::from_raw_parts(self.output.clone(), self.x.m * self.outer) }
    }

    /// Refuses a grid that the device does not have.
    fn check_grid(&self, client: &Client, cubes: u32) -> Result<(), KernelError> {
        let limit = client.properties().hardware.max_cube_count.1;
        if cubes <= limit {
            Ok(())
        } else {
            Err(KernelError::TooManyRows {
                rows: self.x.m,
                cubes,
                limit,
            })
        }
    }
}

/// Refuses what is not a float the kernels are written for, or what the device does not compute with.
pub(crate) fn check_float(
    client: &Client,
    operation: &'static str,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let written_for = matches!(
        dtype,
        ElemType::Float(FloatKind::F32 | FloatKind::F16 | FloatKind::BF16)
    );
    let usage = client.properties().type_usage(dtype);
    if written_for && usage.is_superset(TypeUsage::Buffer | TypeUsage::Conversion) {
        Ok(())
    } else {
        Err(KernelError::UnsupportedType { operation, dtype })
    }
}
