//! Rows that are looked at as a whole: a plane each, its lanes striding along it.

use cubecl::prelude::*;

use crate::launch::plane_size;

/// Units of a cube.
const UNITS: u32 = 256;

/// The grid of a launch over rows.
pub(super) struct RowLaunch {
    pub(super) cubes: CubeCount,
    pub(super) cube_dim: CubeDim,
    /// Units that share a row, those of a plane; 1 where planes have no sums, or their size is not known beforehand.
    pub(super) lanes: usize,
    /// Neighbouring rows that they go through.
    per_plane: u32,
}

impl RowLaunch {
    pub(super) fn new(client: &Client, rows: usize) -> Self {
        if let Some(cores) = client.properties().hardware.num_cpu_cores {
            return Self {
                cubes: CubeCount::new_single(),
                cube_dim: CubeDim::new_2d(1, cores),
                lanes: 1,
                per_plane: rows.div_ceil(cores as usize) as u32,
            };
        }
        let lanes = plane_size(client).unwrap_or(1);
        let planes = (UNITS / lanes).max(1);
        let cube_dim = CubeDim::new_2d(lanes, planes);
        Self {
            cubes: cubecl::calculate_cube_count_elemwise(client, rows * lanes as usize, cube_dim),
            cube_dim,
            lanes: lanes as usize,
            per_plane: 1,
        }
    }

    /// Returns the sizes of so many rows of `vectors` vectors as a kernel argument.
    pub(super) fn sizes_arg(&self, rows: usize, vectors: usize) -> RowSizesLaunch {
        RowSizesLaunch::new(rows as u32, vectors as u32, self.per_plane)
    }
}

/// The sizes of a launch over rows in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct RowSizes {
    pub(super) rows: u32,
    /// Vectors of a row.
    pub(super) vectors: u32,
    /// Neighbouring rows that a plane goes through.
    pub(super) per_plane: u32,
}

/// Returns the first of the rows of the plane that asks.
#[cube]
pub(super) fn first_row(per_plane: u32) -> u32 {
    (CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y) * per_plane
}

/// Returns the mean over all elements of a row of `vectors`.
#[cube]
pub(super) fn row_mean<N: Size>(
    partial: Vector<f32, N>,
    vectors: u32,
    #[comptime] lanes: usize,
) -> f32 {
    let size = N::value();
    let mut sum = f32::new(0.0);
    #[unroll]
    for e in 0..size {
        sum += partial.extract(e);
    }
    lane_sum(sum, lanes) / f32::cast_from(vectors * comptime!(size as u32))
}

/// Returns the sum over all lanes.
#[cube]
pub(super) fn lane_sum(partial: f32, #[comptime] lanes: usize) -> f32 {
    if comptime!(lanes > 1) {
        plane_sum(partial)
    } else {
        partial
    }
}

/// Returns the maximum over all lanes.
#[cube]
pub(super) fn lane_max(partial: f32, #[comptime] lanes: usize) -> f32 {
    if comptime!(lanes > 1) {
        plane_max(partial)
    } else {
        partial
    }
}
