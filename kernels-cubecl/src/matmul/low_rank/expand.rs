//! `y += t·F`, from the rank to a layer's width: a unit adds to a vector of a few rows of `y` where they lie.
//!
//! A loaded vector of the factor serves all rows of the unit, and `y` is rounded once more.
//!
//! Bytes: `y` is read and written, the factor read once for each eight rows, from the caches. 512 rows of 4096 in f16 from 16:
//! 8.4 MB, 8 µs on an RTX 4090 (1.01 TB/s). Prediction: not run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::factors::{Factor, Projected, ThinSizes, Vectors};
use crate::error::KernelError;
use crate::launch::LaunchConfig;
use crate::operand::tensor_buffer;

/// The most lanes of a vector.
const MAX_VECTOR: usize = 16;
/// The most rows of a unit.
const MAX_ROWS: usize = 8;
/// Units of a cube.
const UNITS: u32 = 64;

/// Adds `t·F` to a contiguous `y` of `t`'s rows and the factor's width; at least one row and one column.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn expand(
    client: &Client,
    projected: &Projected,
    factor: &Factor,
    y: &TensorHandle,
) -> Result<(), KernelError> {
    let &Projected { m, rank, .. } = projected;
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
    let vectors = Vectors::new(client, MAX_VECTOR, factor.width, factor.width);
    let config = LaunchConfig::in_layers(client, vectors.count, UNITS, tiles);
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        expand_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            vectors.size,
            projected.arg(),
            factor.arg(),
            tensor_buffer(y),
            vectors.sizes_arg(m, rank),
            config.per_unit,
            rows,
            y.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn expand_kernel<F: Float, N: Size>(
    projected: &[f32],
    factor: &[Vector<f32, N>],
    y: &mut [Vector<F, N>],
    sizes: &ThinSizes,
    per_unit: u32,
    #[comptime] rows: usize,
    #[define(F)] _dtype: ElemType,
) {
    let first_row = CUBE_POS_Y * comptime!(rows as u32);
    let first_column = ABSOLUTE_POS_X * per_unit;
    for column in first_column..min(first_column + per_unit, sizes.vectors) {
        // Rows beyond the last are computed from the last and never written.
        let mut row = Array::<u32>::new(rows);
        let mut sums = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for i in 0..rows {
            row[i] = min(first_row + comptime!(i as u32), sizes.m - 1);
            sums[i] = Vector::cast_from(y[(row[i] * sizes.stride + column) as usize]);
        }
        for j in 0..sizes.rank {
            let of_factor = factor[(j * sizes.vectors + column) as usize];
            #[unroll]
            for i in 0..rows {
                let value = projected[(row[i] * sizes.rank + j) as usize];
                sums[i] += of_factor * Vector::new(value);
            }
        }
        #[unroll]
        for i in 0..rows {
            let row = first_row + comptime!(i as u32);
            if row < sizes.m {
                y[(row * sizes.stride + column) as usize] = Vector::cast_from(sums[i]);
            }
        }
    }
}
