//! `y += t·F`, from the rank to a layer's width: a unit adds to a vector of a few rows of `y` where they lie.
//!
//! A loaded vector of the factor serves all rows of the unit, and `y` is rounded once more.
//!
//! Bytes: `y` is read and written, the factor read once for each eight rows, from the caches. 512 rows of 4096 in f16 from 16:
//! 8.4 MB, 8 µs on an RTX 4090 (1.01 TB/s). Prediction: not run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::factors::{Factor, Projected, Vectors};
use crate::error::KernelError;
use crate::launch::LaunchConfig;
use crate::operand::tensor_buffer;

/// The most lanes of a vector.
const MAX_VECTOR: usize = 16;
/// The most rows of a unit.
const MAX_ROWS: usize = 8;
/// Units of a cube.
const UNITS: u32 = 64;

/// The operands of a product, and what it is added to.
pub(super) struct Expansion<'a> {
    /// `t`.
    pub(super) projected: &'a Projected,
    pub(super) factor: &'a Factor,
    /// Contiguous, of `t`'s rows and the factor's width; at least one row and one column.
    pub(super) y: &'a TensorHandle,
}

/// Adds to each `y` its `t·F`, of all as many rows and one type, in one launch.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn expand(client: &Client, expansions: &[Expansion]) -> Result<(), KernelError> {
    let Some(first) = expansions.first() else {
        return Ok(());
    };
    let m = first.projected.m;
    let rows = m.next_power_of_two().min(MAX_ROWS);
    let tiles = m.div_ceil(rows);
    let limit = client.properties().hardware.max_cube_count.1;
    if tiles > limit as usize {
        return Err(KernelError::TooManyRows {
            rows: m,
            cubes: tiles as u32,
            limit,
        });
    }
    let widths = expansions.iter().map(|expansion| expansion.factor.width);
    let vector = widths
        .map(|width| Vectors::new(client, MAX_VECTOR, width, width).size)
        .min()
        .unwrap_or(1);
    let mut cubes = 0;
    let mut units = CubeDim::new_1d(UNITS);
    let mut parts = SequenceArg::new();
    for Expansion {
        projected,
        factor,
        y,
    } in expansions
    {
        let vectors = factor.width / vector;
        let config = LaunchConfig::new(client, vectors, UNITS);
        units = config.cube_dim;
        cubes += vectors.div_ceil((units.x * config.per_unit) as usize) as u32;
        parts.push(PartLaunch::new(
            projected.arg(),
            factor.arg(),
            tensor_buffer(y),
            projected.rank as u32,
            vectors as u32,
            config.per_unit,
            cubes,
        ));
    }
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        expand_kernel::launch_unchecked(
            client,
            CubeCount::Static(cubes, tiles as u32, 1),
            units,
            vector,
            parts,
            m as u32,
            rows,
            expansions.len(),
            first.y.dtype,
        );
    }
    Ok(())
}

/// An [`Expansion`] in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Part<F: Float, N: Size> {
    projected: Box<[f32]>,
    factor: Box<[Vector<f32, N>]>,
    y: Box<[Vector<F, N>]>,
    rank: u32,
    /// Vectors of a row of `y`.
    vectors: u32,
    /// Neighbouring vectors of a unit.
    per_unit: u32,
    /// The first cube that is the next part's.
    end: u32,
}

#[cube(launch_unchecked)]
fn expand_kernel<F: Float, N: Size>(
    mut parts: Sequence<Part<F, N>>,
    m: u32,
    #[comptime] rows: usize,
    // Tells instances apart: see `fused`.
    #[comptime] count: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut begin = 0u32.runtime();
    #[unroll]
    for i in 0..count {
        let part = &mut parts[i];
        if CUBE_POS_X >= begin && CUBE_POS_X < part.end {
            let unit = (CUBE_POS_X - begin) * CUBE_DIM_X + UNIT_POS_X;
            let first_column = unit * part.per_unit;
            expand_columns::<F, N>(part, first_column, m, rows);
        }
        begin = part.end;
    }
}

/// Adds to a unit's vectors of `y`, from `first_column` on.
#[cube]
fn expand_columns<F: Float, N: Size>(
    part: &mut Part<F, N>,
    first_column: u32,
    m: u32,
    #[comptime] rows: usize,
) {
    let first_row = CUBE_POS_Y * comptime!(rows as u32);
    for column in first_column..min(first_column + part.per_unit, part.vectors) {
        // Rows beyond the last are computed from the last and never written.
        let mut row = Array::<u32>::new(rows);
        let mut sums = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for i in 0..rows {
            row[i] = min(first_row + comptime!(i as u32), m - 1);
            sums[i] = Vector::cast_from(part.y[(row[i] * part.vectors + column) as usize]);
        }
        for j in 0..part.rank {
            let of_factor = part.factor[(j * part.vectors + column) as usize];
            #[unroll]
            for i in 0..rows {
                let value = part.projected[(row[i] * part.rank + j) as usize];
                sums[i] += of_factor * Vector::new(value);
            }
        }
        #[unroll]
        for i in 0..rows {
            let row = first_row + comptime!(i as u32);
            if row < m {
                part.y[(row * part.vectors + column) as usize] = Vector::cast_from(sums[i]);
            }
        }
    }
}
