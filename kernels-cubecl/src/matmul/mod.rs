//! `x · Wᵀ` and `x · W` from packed words.
//!
//! - `gemv`: up to eight rows on a GPU.
//! - `staged`: many rows on a GPU, through cubek-matmul, with matrix instructions where there are any.
//! - `panels`: any number of rows on a CPU; a few, forward, by `dots`.
//! - `registers`: any number of rows on a software rasterizer, and any shape anywhere.
//!
//! [`candidates`] are those that the device and the shape allow. [`choose`] takes the likeliest; with the feature `autotune`,
//! [`matmul()`] has the device measure them and takes the fastest: see `tune`.

mod dots;
mod gemv;
mod loader;
mod panels;
mod registers;
mod sources;
mod staged;
#[cfg(feature = "autotune")]
mod tune;

use std::fmt;

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::error::{KernelError, check_size};
use crate::format::Weight;
use crate::launch::{is_cpu, is_rasterizer};

/// Which product is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "autotune", derive(serde::Serialize, serde::Deserialize))]
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

/// The kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `gemv`: up to eight rows, each row of the weight beginning on a word.
    Gemv,
    /// `staged` on matrix instructions, for f16 and bf16.
    StagedMatrix,
    /// `staged` on plain units.
    StagedUnits,
    /// `panels`.
    Panels,
    /// `registers`.
    Registers,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The kernel for `m` rows of `dtype`, unmeasured: the first of [`candidates`].
pub fn choose(client: &Client, m: usize, weight: &Weight, dtype: ElemType) -> Kernel {
    let mut candidates = candidates(client, m, weight.in_features, dtype);
    candidates.next().unwrap_or(Kernel::Registers)
}

/// The kernels that may be the fastest for `m` rows of `dtype` and a weight of `in_features` columns, the likeliest first.
///
/// - A CPU takes `panels` at every `m`. On two cores with AVX-512 a 4096 × 4096 layer takes 0.7 to 1.1 ms for one row, 92 ms
///   for 512 (187 GFLOP/s); the kernels with barriers would have the cores wait for each other.
/// - A software rasterizer takes `registers`: on Mesa's, the same layer takes 1.6 ms for one row, where `gemv` takes 14, and for
///   512 rows half the time of `staged`.
/// - A GPU takes `gemv` while reading the weight bounds the time, up to [`GEMV_MAX_ROWS`]; beyond, matrix instructions where it
///   has them for the type, and units where not. Reasoned, not measured: see the rooflines.
/// - Rows that begin within a word are too rare for a `gemv` of their own.
pub fn candidates(
    client: &Client,
    m: usize,
    in_features: usize,
    dtype: ElemType,
) -> impl Iterator<Item = Kernel> {
    let kernels = by_preference(client).into_iter();
    kernels.filter(move |kernel| kernel.is_candidate(client, m, in_features, dtype))
}

/// All kernels; of those that can run, the first is the likeliest to be the fastest.
fn by_preference(client: &Client) -> [Kernel; 5] {
    use Kernel::{Gemv, Panels, Registers, StagedMatrix, StagedUnits};
    if is_rasterizer(client) {
        [Registers, Gemv, StagedMatrix, StagedUnits, Panels]
    } else {
        [Panels, Gemv, Registers, StagedMatrix, StagedUnits]
    }
}

impl Kernel {
    /// Whether the device and the shape let the kernel run in a time worth measuring.
    fn is_candidate(self, client: &Client, m: usize, in_features: usize, dtype: ElemType) -> bool {
        let few_rows = m <= GEMV_MAX_ROWS;
        match self {
            Kernel::Panels => is_cpu(client),
            Kernel::Gemv => !is_cpu(client) && few_rows && in_features.is_multiple_of(8),
            // Many rows might keep a card longer than its driver waits.
            Kernel::Registers => few_rows || is_rasterizer(client),
            Kernel::StagedMatrix => {
                !is_cpu(client)
                    && dtype != ElemType::Float(FloatKind::F32)
                    && staged::has_matrix_instructions(client, dtype)
            }
            Kernel::StagedUnits => !is_cpu(client),
        }
    }
}

/// Up to this many rows a GPU reads the weight for longer than it multiplies by it.
pub const GEMV_MAX_ROWS: usize = gemv::MAX_ROWS;

/// Multiplies `x` by the weight, accumulating in f32, into a new contiguous buffer of `x`'s dtype.
///
/// Launches one kernel and returns at once; with the feature `autotune`, the first product of its kind measures the
/// candidates before, and waits for them.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::TooLarge`], [`KernelError::TooManyRows`].
pub fn matmul(
    client: &Client,
    x: Rows,
    weight: &Weight,
    direction: Direction,
) -> Result<Handle, KernelError> {
    #[cfg(feature = "autotune")]
    let kernel = tune::fastest(client, &x, weight, direction);
    #[cfg(not(feature = "autotune"))]
    let kernel = choose(client, x.m, weight, x.dtype);
    matmul_with(client, x, weight, direction, kernel)
}

/// [`matmul`] by a named kernel, for tests and benches.
///
/// # Errors
/// As [`matmul`], and [`KernelError::Unavailable`].
pub fn matmul_with(
    client: &Client,
    x: Rows,
    weight: &Weight,
    direction: Direction,
    kernel: Kernel,
) -> Result<Handle, KernelError> {
    let [inner, outer] = checked_sides(client, &x, weight, direction)?;
    let output_len = x.m * outer;
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
    match kernel {
        Kernel::Gemv => gemv::launch(client, &problem, direction)?,
        Kernel::StagedMatrix => staged::launch_matrix(client, &problem, direction)?,
        Kernel::StagedUnits => staged::launch_units(client, &problem, direction)?,
        Kernel::Panels => panels::launch(client, &problem, direction)?,
        Kernel::Registers => registers::launch(client, &problem, direction)?,
    }
    Ok(output)
}

/// The lengths of the contraction and of a row of the output, of a product that the kernels can index and compute.
fn checked_sides(
    client: &Client,
    x: &Rows,
    weight: &Weight,
    direction: Direction,
) -> Result<[usize; 2], KernelError> {
    check_float(client, "matmul", x.dtype)?;
    let [inner, outer] = match direction {
        Direction::Forward => [weight.in_features, weight.out_features],
        Direction::Transposed => [weight.out_features, weight.in_features],
    };
    check_size("weight", weight.elements())?;
    check_size("output", x.m * outer)?;
    check_size("input", x.m * x.row_stride.max(inner))?;
    Ok([inner, outer])
}

/// Where in the words a row of the weight can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Alignment {
    /// At any element.
    Elements,
    /// On a word: all elements of a word have one scale.
    Words,
    /// On a block of this size.
    Blocks(usize),
}

impl Alignment {
    /// Whether the scale must be looked up anew `offset` elements into a row.
    fn begins_block(self, offset: usize) -> bool {
        match self {
            Alignment::Elements => true,
            Alignment::Words => offset.is_multiple_of(8),
            Alignment::Blocks(size) => offset.is_multiple_of(size),
        }
    }
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
    fn alignment(&self) -> Alignment {
        let (row, block) = (self.weight.in_features, self.weight.format.block_size);
        if row.is_multiple_of(block) {
            Alignment::Blocks(block)
        } else if row.is_multiple_of(8) {
            Alignment::Words
        } else {
            Alignment::Elements
        }
    }

    fn x_tensor(&self) -> TensorBinding {
        // SAFETY: the caller of `matmul` vouches for rows and stride.
        unsafe {
            TensorBinding::from_raw_parts(
                self.x.handle.clone(),
                [self.x.row_stride, 1].into(),
                [self.x.m, self.inner].into(),
            )
        }
    }

    fn output_tensor(&self) -> TensorBinding {
        // SAFETY: `matmul` allocated the output in this shape.
        unsafe {
            TensorBinding::from_raw_parts(
                self.output.clone(),
                [self.outer, 1].into(),
                [self.x.m, self.outer].into(),
            )
        }
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
///
/// # Errors
/// [`KernelError::UnsupportedType`].
pub fn check_float(
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
