//! The product by planes: each takes a tile of rows and ranks, its lanes stride along the width, and their sums are added up in
//! the plane.
//!
//! A loaded vector of `x` serves all ranks of the tile, one of the factor all its rows. A CPU's plane is a thread, whose
//! vectors are as wide as its registers.
//!
//! Bytes: `x` once for each four ranks, from the caches but for the first time, and the factor once for each four rows. 512
//! rows of 4096 in f16 onto 16: 4.2 MB from memory, 4 µs on an RTX 4090 (1.01 TB/s), and 50 MB from its caches, 10 µs (5
//! TB/s). Predictions: none was run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::super::planes::{Lanes, PLANES, lane_sum};
use super::super::super::problem::Rows;
use super::super::factors::{Factor, Projected, ThinSizes, Vectors};
use crate::launch::{LaunchConfig, is_cpu};

/// The most elements of a vector.
const MAX_VECTOR: usize = 16;

/// The part of the result that a plane computes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    rows: usize,
    ranks: usize,
}

impl Tile {
    /// Returns the tile of `m` rows and a rank, which are taken in powers of two, so that there are few kernels to compile. The
    /// sums of 4 × 4 vectors fill half of the registers of a card's unit, and of a CPU with AVX-512.
    fn new(m: usize, rank: usize) -> Self {
        let side = |length: usize| length.next_power_of_two().min(4);
        Self {
            rows: side(m),
            ranks: side(rank),
        }
    }
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
    let tiles = x.m.div_ceil(tile.rows) * rank.div_ceil(tile.ranks);
    let vectors = Vectors::new(client, MAX_VECTOR, width, x.stride);
    let lanes = if is_cpu(client) {
        Lanes::ONE
    } else {
        Lanes::of(client)
    };
    let config = grid(client, tiles, lanes);
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
            config.per_unit,
            tile,
            lanes,
            x.dtype,
        );
    }
}

/// Returns the grid of planes of so many lanes, each with a tile; on a CPU a core has its share of them.
fn grid(client: &Client, tiles: usize, lanes: Lanes) -> LaunchConfig {
    if lanes == Lanes::ONE {
        let config = LaunchConfig::new(client, tiles, 1);
        let cube_dim = CubeDim::new_2d(1, config.cube_dim.x);
        return LaunchConfig { cube_dim, ..config };
    }
    // Planes without a tile would compute the last one again.
    let planes = PLANES.min(tiles.next_power_of_two() as u32);
    let cube_dim = CubeDim::new_2d(lanes.count, planes);
    LaunchConfig {
        cubes: cubecl::calculate_cube_count_elemwise(
            client,
            tiles * lanes.count as usize,
            cube_dim,
        ),
        cube_dim,
        per_unit: 1,
    }
}

#[cube(launch_unchecked)]
fn project_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    factor: &[Vector<f32, N>],
    projected: &mut [f32],
    sizes: &ThinSizes,
    scale: f32,
    per_plane: u32,
    #[comptime] tile: Tile,
    #[comptime] lanes: Lanes,
    #[define(F)] _dtype: ElemType,
) {
    let rank_tiles = sizes.rank.div_ceil(comptime!(tile.ranks as u32));
    let tiles = sizes.m.div_ceil(comptime!(tile.rows as u32)) * rank_tiles;
    let first_tile = (CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y) * per_plane;
    for t in 0..per_plane {
        let asked = first_tile + t;
        // Planes stay together: those beyond the last tile compute it again and write nothing.
        let at = min(asked, tiles - 1);
        let first_row = at / rank_tiles * comptime!(tile.rows as u32);
        let first_rank = at % rank_tiles * comptime!(tile.ranks as u32);
        // Rows and ranks beyond the last are computed from the last and never written.
        let mut row_starts = Array::<u32>::new(tile.rows);
        #[unroll]
        for i in 0..tile.rows {
            row_starts[i] = min(first_row + comptime!(i as u32), sizes.m - 1) * sizes.stride;
        }
        let mut rank_starts = Array::<u32>::new(tile.ranks);
        #[unroll]
        for j in 0..tile.ranks {
            let rank = min(first_rank + comptime!(j as u32), sizes.rank - 1);
            rank_starts[j] = rank * sizes.vectors;
        }
        let mut sums = Array::<Vector<f32, N>>::new(comptime!(tile.rows * tile.ranks));
        #[unroll]
        for i in 0..comptime!(tile.rows * tile.ranks) {
            sums[i] = Vector::zeroed();
        }
        let mut vector = UNIT_POS_X;
        while vector < sizes.vectors {
            let mut values = Array::<Vector<f32, N>>::new(tile.rows);
            #[unroll]
            for i in 0..tile.rows {
                values[i] = Vector::cast_from(x[(row_starts[i] + vector) as usize]);
            }
            #[unroll]
            for j in 0..tile.ranks {
                let of_factor = factor[(rank_starts[j] + vector) as usize];
                #[unroll]
                for i in 0..tile.rows {
                    sums[comptime!(i * tile.ranks + j)] += values[i] * of_factor;
                }
            }
            vector += comptime!(lanes.count);
        }
        #[unroll]
        for i in 0..tile.rows {
            let row = first_row + comptime!(i as u32);
            #[unroll]
            for j in 0..tile.ranks {
                let rank = first_rank + comptime!(j as u32);
                let size = N::value();
                let mut partial = f32::new(0.0);
                #[unroll]
                for e in 0..size {
                    partial += sums[comptime!(i * tile.ranks + j)].extract(e);
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
