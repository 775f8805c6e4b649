//! Which units a row of a head has.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::fused::vector_size;
use crate::launch::plane_size;

/// Units of a cube.
const UNITS: usize = 128;
/// Elements of a head that a lane has of each array: more would not leave registers enough for the sums.
const LANE_ELEMENTS: usize = 32;

/// The grid of a launch over the rows of all heads.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Rows of a cube.
    pub(super) rows: usize,
    /// Elements of a vector.
    pub(super) vector: usize,
    pub(super) part: LanePart,
}

/// A lane's share of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LanePart {
    /// Lanes that share a row.
    pub(super) lanes: usize,
    /// Vectors of a row that a lane has.
    pub(super) vectors: usize,
}

impl Grid {
    pub(super) fn new(client: &Client, dtype: ElemType, head_dim: usize) -> Self {
        let most = plane_size(client).unwrap_or(1) as usize;
        let mut lanes = head_dim
            .div_ceil(LANE_ELEMENTS)
            .next_power_of_two()
            .min(most);
        while !head_dim.is_multiple_of(lanes) {
            lanes /= 2;
        }
        let vector = vector_size(dtype, head_dim / lanes);
        Self {
            // Units of a CPU are threads.
            rows: match client.properties().hardware.num_cpu_cores {
                Some(cores) => cores as usize,
                None => UNITS / lanes.min(UNITS),
            },
            vector,
            part: LanePart {
                lanes,
                vectors: head_dim / lanes / vector,
            },
        }
    }

    /// Returns the grid with vectors that divide `columns` elements, too.
    pub(super) fn dividing(mut self, columns: usize) -> Self {
        while !columns.is_multiple_of(self.vector) {
            self.vector /= 2;
            self.part.vectors *= 2;
        }
        self
    }

    /// Returns the grid with a cube for some neighbouring rows of one head.
    pub(super) fn cubes(&self, len: usize, heads: usize, batch: usize) -> CubeCount {
        CubeCount::Static(len.div_ceil(self.rows) as u32, heads as u32, batch as u32)
    }

    pub(super) fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(self.part.lanes as u32, self.rows as u32)
    }
}
