//! The product by units: each keeps a tile of the result in its registers.
//!
//! For software rasterizers, as `register_tiled`. The units of a cube have rows of their own and the same ranks, so that an
//! element of the factor is loaded once for all of them, and one of `x` serves all ranks of the tile. On Mesa's, with two
//! cores, 512 rows of 2048 onto a rank of 64 take 8 ms, by planes 36; onto 8 they take 2 and 5.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::super::problem::Rows;
use super::super::factors::{Factor, Projected};
use crate::launch::LaunchConfig;

/// Units of a cube.
const UNITS: u32 = 8;
/// The most rows of a unit.
const MAX_ROWS: usize = 8;
/// The most ranks of a unit.
const MAX_RANKS: usize = 16;
/// Rows that fill a cube.
pub(super) const CUBE_ROWS: usize = UNITS as usize * MAX_ROWS;

/// The part of the result that a unit keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    rows: usize,
    ranks: usize,
}

impl Tile {
    /// Returns the tile of `m` rows and a rank, which are taken in powers of two, so that there are few kernels to compile.
    fn new(m: usize, rank: usize) -> Self {
        Self {
            rows: m.next_power_of_two().min(MAX_ROWS),
            ranks: rank.next_power_of_two().min(MAX_RANKS),
        }
    }
}

/// The sizes of the product in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    m: u32,
    rank: u32,
    width: u32,
    /// Elements from one row of `x` to the next.
    stride: u32,
}

/// Writes `scale·(x·Fᵀ)`.
pub(super) fn launch(
    client: &Client,
    x: &Rows,
    factor: &Factor,
    scale: f32,
    projected: &Projected,
) {
    let &Factor { rank, width, .. } = factor;
    let tile = Tile::new(x.m, rank);
    let config = LaunchConfig::in_layers(
        client,
        x.m.div_ceil(tile.rows),
        UNITS,
        rank.div_ceil(tile.ranks),
    );
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        tiles_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            x.arg(width),
            factor.arg(),
            projected.arg(),
            SizesLaunch::new(x.m as u32, rank as u32, width as u32, x.stride as u32),
            scale,
            config.per_unit,
            tile,
            x.dtype,
        );
    }
}

#[cube(launch_unchecked)]
fn tiles_kernel<F: Float>(
    x: &[F],
    factor: &[f32],
    projected: &mut [f32],
    sizes: &Sizes,
    scale: f32,
    per_unit: u32,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let first_rank = CUBE_POS_Y * comptime!(tile.ranks as u32);
    let mut rank_starts = Array::<u32>::new(tile.ranks);
    #[unroll]
    for j in 0..tile.ranks {
        // Ranks and rows beyond the last are computed from the last and never written.
        rank_starts[j] = min(first_rank + comptime!(j as u32), sizes.rank - 1) * sizes.width;
    }
    for t in 0..per_unit {
        let first_row = (ABSOLUTE_POS_X * per_unit + t) * comptime!(tile.rows as u32);
        if first_row < sizes.m {
            let mut row_starts = Array::<u32>::new(tile.rows);
            #[unroll]
            for i in 0..tile.rows {
                row_starts[i] = min(first_row + comptime!(i as u32), sizes.m - 1) * sizes.stride;
            }
            let mut sums = Array::<f32>::new(comptime!(tile.rows * tile.ranks));
            #[unroll]
            for i in 0..comptime!(tile.rows * tile.ranks) {
                sums[i] = f32::new(0.0);
            }
            for k in 0..sizes.width {
                let mut values = Array::<f32>::new(tile.rows);
                #[unroll]
                for i in 0..tile.rows {
                    values[i] = f32::cast_from(x[(row_starts[i] + k) as usize]);
                }
                #[unroll]
                for j in 0..tile.ranks {
                    let of_factor = factor[(rank_starts[j] + k) as usize];
                    #[unroll]
                    for i in 0..tile.rows {
                        sums[comptime!(i * tile.ranks + j)] += values[i] * of_factor;
                    }
                }
            }
            #[unroll]
            for i in 0..tile.rows {
                let row = first_row + comptime!(i as u32);
                #[unroll]
                for j in 0..tile.ranks {
                    let rank = first_rank + comptime!(j as u32);
                    if row < sizes.m && rank < sizes.rank {
                        projected[(row * sizes.rank + rank) as usize] =
                            sums[comptime!(i * tile.ranks + j)] * scale;
                    }
                }
            }
        }
    }
}
