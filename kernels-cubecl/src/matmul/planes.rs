//! Sums over lanes, the units of a cube's first dimension.

use cubecl::prelude::*;

use crate::launch::plane_size;

/// The most planes of a cube whose lanes are added up.
pub(super) const PLANES: u32 = 4;

/// The lanes of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lanes {
    pub(super) count: u32,
    /// They are a plane.
    are_plane: bool,
}

impl Lanes {
    /// A unit by itself.
    pub(super) const ONE: Self = Self {
        count: 1,
        are_plane: false,
    };

    /// Returns the lanes of a plane, or 32 where the device names no size.
    pub(super) fn of(client: &Client) -> Self {
        let plane_size = plane_size(client);
        Self {
            count: plane_size.unwrap_or(32),
            are_plane: plane_size.is_some(),
        }
    }
}

/// Returns the sum over the lanes, at least in the first of them. All units of the cube take part.
#[cube]
pub(super) fn lane_sum(partial: f32, #[comptime] lanes: Lanes) -> f32 {
    if comptime!(lanes.count == 1) {
        partial
    } else if comptime!(lanes.are_plane) {
        plane_sum(partial)
    } else {
        sum_through_memory(partial, comptime!(lanes.count as usize))
    }
}

#[cube]
fn sum_through_memory(partial: f32, #[comptime] lanes: usize) -> f32 {
    let mut memory = Shared::<[f32]>::new_slice(comptime!(lanes * PLANES as usize));
    memory[UNIT_POS as usize] = partial;
    sync_cube();
    let mut half = comptime!(lanes as u32 / 2).runtime();
    while half > 0 {
        if UNIT_POS_X < half {
            let other = memory[(UNIT_POS + half) as usize];
            memory[UNIT_POS as usize] += other;
        }
        sync_cube();
        half >>= 1;
    }
    let total = memory[UNIT_POS as usize];
    sync_cube();
    total
}
