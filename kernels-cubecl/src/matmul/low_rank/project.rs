//! `s·(x·Fᵀ)`, from a layer's width to the rank: dot products of rows of `x` and rows of the factor.
//!
//! A plane takes a tile of rows and ranks, its lanes stride along the width, and their sums are added up in the plane. A
//! loaded vector of `x` serves all ranks of the tile, one of the factor all its rows. A CPU's plane is a thread, whose
//! vectors are as wide as its registers.
//!
//! Bytes: `x` once for each four ranks, from the caches but for the first time, and the factor once for each four rows. 512
//! rows of 4096 in f16 onto 16: 4.2 MB from memory, 4 µs on an RTX 4090 (1.01 TB/s), and 50 MB from its caches, 10 µs (5
//! TB/s). Predictions: none was run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::problem::Rows;
use super::factors::{Factor, Projected, ThinSizes, Vectors};
use crate::error::KernelError;
use crate::fused::rows::{RowLaunch, first_row, lane_sum};

/// The most lanes of a vector: with 16, the sums of a tile fill half of a CPU's registers.
const MAX_VECTOR: usize = 16;
/// The ranks of a tile.
const RANKS: usize = 4;
/// The most rows of a tile.
const MAX_ROWS: usize = 4;

/// Returns `scale·(x·Fᵀ)`, `[m, rank]`, for rows of the factor's width; at least one row and one column.
///
/// # Errors
/// [`KernelError::TooLarge`].
pub(super) fn project(
    client: &Client,
    x: &Rows,
    factor: &Factor,
    scale: f32,
) -> Result<Projected, KernelError> {
    let &Factor { rank, width, .. } = factor;
    let projected = Projected::empty(client, x.m, rank)?;
    let rows = x.m.next_power_of_two().min(MAX_ROWS);
    let tiles = x.m.div_ceil(rows) * rank.div_ceil(RANKS);
    let vectors = Vectors::new(client, MAX_VECTOR, width, x.stride);
    let config = RowLaunch::new(client, tiles);
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        project_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            vectors.size,
            x.arg(width),
            factor.arg(),
            projected.arg(),
            vectors.sizes_arg(x.m, rank),
            scale,
            config.per_plane,
            rows,
            config.lanes,
            x.dtype,
        );
    }
    Ok(projected)
}

#[cube(launch_unchecked)]
fn project_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    factor: &[Vector<f32, N>],
    projected: &mut [f32],
    sizes: &ThinSizes,
    scale: f32,
    per_plane: u32,
    #[comptime] rows: usize,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let rank_tiles = sizes.rank.div_ceil(comptime!(RANKS as u32));
    let tiles = sizes.m.div_ceil(comptime!(rows as u32)) * rank_tiles;
    for t in 0..per_plane {
        let asked = first_row(per_plane) + t;
        // Planes stay together: those beyond the last tile compute it again and write nothing.
        let tile = min(asked, tiles - 1);
        let first_row = tile / rank_tiles * comptime!(rows as u32);
        let first_rank = tile % rank_tiles * comptime!(RANKS as u32);
        // Rows and ranks beyond the last are computed from the last and never written.
        let mut row_starts = Array::<u32>::new(rows);
        #[unroll]
        for i in 0..rows {
            row_starts[i] = min(first_row + comptime!(i as u32), sizes.m - 1) * sizes.stride;
        }
        let mut rank_starts = Array::<u32>::new(RANKS);
        #[unroll]
        for j in 0..RANKS {
            let rank = min(first_rank + comptime!(j as u32), sizes.rank - 1);
            rank_starts[j] = rank * sizes.vectors;
        }
        let mut sums = Array::<Vector<f32, N>>::new(comptime!(rows * RANKS));
        #[unroll]
        for i in 0..comptime!(rows * RANKS) {
            sums[i] = Vector::zeroed();
        }
        let mut at = UNIT_POS_X;
        while at < sizes.vectors {
            let mut values = Array::<Vector<f32, N>>::new(rows);
            #[unroll]
            for i in 0..rows {
                values[i] = Vector::cast_from(x[(row_starts[i] + at) as usize]);
            }
            #[unroll]
            for j in 0..RANKS {
                let of_factor = factor[(rank_starts[j] + at) as usize];
                #[unroll]
                for i in 0..rows {
                    sums[comptime!(i * RANKS + j)] += values[i] * of_factor;
                }
            }
            at += comptime!(lanes as u32);
        }
        #[unroll]
        for i in 0..rows {
            let row = first_row + comptime!(i as u32);
            #[unroll]
            for j in 0..RANKS {
                let rank = first_rank + comptime!(j as u32);
                let size = N::value();
                let mut partial = f32::new(0.0);
                #[unroll]
                for e in 0..size {
                    partial += sums[comptime!(i * RANKS + j)].extract(e);
                }
                let total = lane_sum(partial, lanes) * scale;
                let is_inside = asked < tiles && row < sizes.m && rank < sizes.rank;
                if UNIT_POS_X == 0 && is_inside {
                    projected[(row * sizes.rank + rank) as usize] = total;
                }
            }
        }
    }
}
