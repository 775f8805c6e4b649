//! `tᵀ·x`, the gradient of a factor: for a vector of columns of `x` and a few ranks, the sum over all rows.
//!
//! Where there are fewer vectors than keep the device busy, as on any card, eight units share the rows of one and add up their
//! sums in shared memory, in an order that does not depend on timing.
//!
//! Bytes: `x` once for each tile of ranks, `t` from the caches. 512 rows of 4096 in f16 by 16: 8.4 MB, of which half comes
//! from the caches, 4 µs on an RTX 4090 (1.01 TB/s). Prediction: not run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::super::problem::Rows;
use super::super::select::DeviceKind;
use super::factors::{F32, Projected, ThinSizes, Vectors};
use crate::launch::LaunchConfig;
use crate::operand::{empty, tensor_buffer};

/// The most lanes of a vector.
const MAX_VECTOR: usize = 16;
/// The fewest ranks of a unit.
const MIN_RANKS: usize = 8;
/// The most ranks of a unit.
const MAX_RANKS: usize = 32;
/// Vectors of a cube.
const UNITS: u32 = 32;
/// Units that share the rows of a vector.
const SLICES: u32 = 8;

/// Returns the ranks of a unit, which are taken in powers of two, so that there are few kernels to compile.
///
/// More of them read `x` less often: on Mesa's rasterizer, with two cores, 512 rows of 2048 by 128 take 18 ms by 32 ranks, 20 by
/// eight and 16 to 21 by cubek's dense kernel. A card has no registers for their sums.
fn tile(client: &Client, rank: usize) -> usize {
    match DeviceKind::of(client) {
        DeviceKind::Gpu => MIN_RANKS,
        DeviceKind::Cpu | DeviceKind::Rasterizer => {
            rank.next_power_of_two().clamp(MIN_RANKS, MAX_RANKS)
        }
    }
}

/// Returns the units that share the rows of a vector, where there are not enough vectors for all units of the device.
fn slices(client: &Client, vectors: usize) -> u32 {
    let busy = match DeviceKind::of(client) {
        DeviceKind::Cpu => 0,
        DeviceKind::Rasterizer => 64,
        DeviceKind::Gpu => 1 << 16,
    };
    if vectors < busy { SLICES } else { 1 }
}

/// The order of a gradient's elements, that of its factor.
pub(super) enum Order {
    /// `[width, rank]`.
    OfA,
    /// `[rank, width]`.
    OfB,
}

/// Returns `tᵀ·x`, f32, for rows of `width`; at least one row and one column.
pub(super) fn accumulate(
    client: &Client,
    projected: &Projected,
    x: &Rows,
    width: usize,
    order: Order,
) -> TensorHandle {
    let &Projected { m, rank, .. } = projected;
    let (shape, rank_stride, column_stride) = match order {
        Order::OfA => ([width, rank], 1, rank),
        Order::OfB => ([rank, width], width, 1),
    };
    let gradient = empty(client, shape, F32);
    let vectors = Vectors::new(client, MAX_VECTOR, width, x.stride);
    let tile = tile(client, rank);
    let tiles = rank.div_ceil(tile);
    let mut config = LaunchConfig::in_layers(client, vectors.count, UNITS, tiles);
    let slices = slices(client, tiles * vectors.count);
    config.cube_dim.y = slices;
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        accumulate_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            vectors.size,
            projected.arg(),
            x.arg(width),
            tensor_buffer(&gradient),
            vectors.sizes_arg(m, rank),
            rank_stride as u32,
            column_stride as u32,
            config.per_unit,
            slices as usize,
            tile,
            x.dtype,
        );
    }
    gradient
}

#[cube(launch_unchecked)]
fn accumulate_kernel<F: Float, N: Size>(
    projected: &[f32],
    x: &[Vector<F, N>],
    gradient: &mut [f32],
    sizes: &ThinSizes,
    rank_stride: u32,
    column_stride: u32,
    per_unit: u32,
    #[comptime] slices: usize,
    #[comptime] tile: usize,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let first_rank = CUBE_POS_Y * comptime!(tile as u32);
    let first_column = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) * per_unit;
    for i in 0..per_unit {
        let asked = first_column + i;
        // Cubes stay together: units beyond the last column compute it again and write nothing.
        let column = min(asked, sizes.vectors - 1);
        let mut ranks = Array::<u32>::new(tile);
        let mut sums = Array::<Vector<f32, N>>::new(tile);
        #[unroll]
        for j in 0..tile {
            // Ranks beyond the last are computed from the last and never written.
            ranks[j] = min(first_rank + comptime!(j as u32), sizes.rank - 1);
            sums[j] = Vector::zeroed();
        }
        // Alone, a unit's rows are the same as all others', which a rasterizer must see to load what is theirs once.
        let mut row = if comptime!(slices > 1) {
            UNIT_POS_Y
        } else {
            0u32.runtime()
        };
        while row < sizes.m {
            let values = Vector::<f32, N>::cast_from(x[(row * sizes.stride + column) as usize]);
            #[unroll]
            for j in 0..tile {
                let factor = projected[(row * sizes.rank + ranks[j]) as usize];
                sums[j] += values * Vector::new(factor);
            }
            row += comptime!(slices as u32);
        }
        if comptime!(slices > 1) {
            add_slices::<N>(&mut sums, slices, tile);
        }
        if UNIT_POS_Y == 0 && asked < sizes.vectors {
            #[unroll]
            for j in 0..tile {
                let rank = first_rank + comptime!(j as u32);
                if rank < sizes.rank {
                    #[unroll]
                    for e in 0..size {
                        let element = column * comptime!(size as u32) + comptime!(e as u32);
                        let to = rank * rank_stride + element * column_stride;
                        gradient[to as usize] = sums[j].extract(e);
                    }
                }
            }
        }
    }
}

/// Adds up the sums of the units that share a vector's rows, in the first of them.
#[cube]
fn add_slices<N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    #[comptime] slices: usize,
    #[comptime] tile: usize,
) {
    let mut memory = Shared::<[Vector<f32, N>]>::new_slice(comptime!(UNITS as usize * slices));
    #[unroll]
    for j in 0..tile {
        memory[(UNIT_POS_Y * comptime!(UNITS) + UNIT_POS_X) as usize] = sums[j];
        sync_cube();
        if UNIT_POS_Y == 0 {
            #[unroll]
            for s in 1..slices {
                sums[j] += memory[(UNIT_POS_X + comptime!(s as u32 * UNITS)) as usize];
            }
        }
        sync_cube();
    }
}
