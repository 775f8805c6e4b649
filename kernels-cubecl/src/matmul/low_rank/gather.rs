//! `s·(x·A)` of a few rows, with the factors of several layers of one input in one launch: `A` is read as it lies, a row of ranks
//! after the other.
//!
//! A cube takes some neighbouring ranks of a factor. Its slices of units share the rows of `A`, and their sums meet in shared memory,
//! in an order that does not depend on timing.
//!
//! Bytes: the factors once, and `x` once for each tile of ranks, from the caches: 0.26 MB for 4096 by 16, which one multiprocessor
//! reads in turns of as many loads as a unit has under way. At 0.3 µs a turn and [`LOADS`] loads, 16 turns are 5 µs for one row.
//! Prediction: not run.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::super::problem::{RowSizes, RowSizesLaunch, Rows};
use super::factors::Projected;
use crate::operand::tensor_buffer;

/// Ranks of a cube: a sector of 32 bytes of a row of `A`.
const RANKS: u32 = 8;
/// Units that share a rank's sum.
const SLICES: u32 = 32;
/// Products that a unit adds to its sums in a turn, whose loads do not wait for each other.
const LOADS: usize = 16;
/// The most rows of `A` in a turn.
const MOST_ROWS: usize = 8;

/// A factor, and where its product goes.
pub(super) struct Gathering<'a> {
    /// `[width, rank]`, f32, contiguous.
    pub(super) a: &'a TensorHandle,
    pub(super) scale: f32,
    pub(super) projected: &'a Projected,
}

/// Writes the products of some rows of `width` with all factors.
pub(super) fn gather(client: &Client, x: &Rows, width: usize, gatherings: &[Gathering]) {
    let mut cubes = 0;
    let mut parts = SequenceArg::new();
    for Gathering {
        a,
        scale,
        projected,
    } in gatherings
    {
        let rank = projected.rank as u32;
        cubes += rank.div_ceil(RANKS);
        parts.push(PartLaunch::new(
            tensor_buffer(a),
            projected.arg(),
            rank,
            *scale,
            cubes,
        ));
    }
    // SAFETY: the kernel guards every access by the sizes, which are those of the buffers.
    unsafe {
        gather_kernel::launch_unchecked(
            client,
            CubeCount::Static(cubes, 1, 1),
            CubeDim::new_2d(RANKS, SLICES),
            x.arg(width),
            parts,
            RowSizesLaunch::new(x.m as u32, width as u32, x.stride as u32),
            Turn::of(x.m),
            gatherings.len(),
            x.dtype,
        );
    }
}

/// What a unit multiplies at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    /// Rows of `x`.
    rows: usize,
    /// Rows of `A`.
    depth: usize,
}

impl Turn {
    /// Returns the turn for `m` rows, which are taken in powers of two, so that there are few kernels to compile.
    fn of(m: usize) -> Self {
        let rows = m.next_power_of_two();
        Self {
            rows,
            depth: (LOADS / rows).clamp(1, MOST_ROWS),
        }
    }
}

/// A [`Gathering`] in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Part {
    a: Box<[f32]>,
    projected: Box<[f32]>,
    rank: u32,
    scale: f32,
    /// The first cube that is the next part's.
    end: u32,
}

#[cube(launch_unchecked)]
fn gather_kernel<F: Float>(
    x: &[F],
    mut parts: Sequence<Part>,
    sizes: &RowSizes,
    #[comptime] turn: Turn,
    // Tells instances apart: see `fused`.
    #[comptime] count: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut begin = 0u32.runtime();
    #[unroll]
    for i in 0..count {
        let part = &mut parts[i];
        if CUBE_POS_X >= begin && CUBE_POS_X < part.end {
            let rank = (CUBE_POS_X - begin) * comptime!(RANKS) + UNIT_POS_X;
            gather_rank::<F>(x, part, rank, sizes, turn);
        }
        begin = part.end;
    }
}

/// Writes the products of all rows with one rank. All units of the cube take part.
#[cube]
fn gather_rank<F: Float>(
    x: &[F],
    part: &mut Part,
    rank: u32,
    sizes: &RowSizes,
    #[comptime] turn: Turn,
) {
    let (rows, depth) = comptime!((turn.rows, turn.depth));
    // Ranks and rows beyond the last are computed from the last and never written.
    let column = min(rank, part.rank - 1);
    let mut starts = Array::<u32>::new(rows);
    let mut sums = Array::<f32>::new(rows);
    #[unroll]
    for i in 0..rows {
        starts[i] = min(comptime!(i as u32).runtime(), sizes.m - 1) * sizes.x_stride;
        sums[i] = f32::new(0.0);
    }
    let mut k = UNIT_POS_Y;
    while k < sizes.k {
        let mut of_factor = Array::<f32>::new(depth);
        let mut values = Array::<f32>::new(comptime!(depth * rows));
        #[unroll]
        for d in 0..depth {
            // What is beyond the last row of `A` counts nothing.
            let asked = k + comptime!(d as u32 * SLICES);
            let exists = asked < sizes.k;
            let at = min(asked, sizes.k - 1);
            let value = part.a[(at * part.rank + column) as usize];
            of_factor[d] = select(exists, value, f32::new(0.0));
            #[unroll]
            for i in 0..rows {
                let value = f32::cast_from(x[(starts[i] + at) as usize]);
                values[comptime!(d * rows + i)] = select(exists, value, f32::new(0.0));
            }
        }
        #[unroll]
        for d in 0..depth {
            #[unroll]
            for i in 0..rows {
                sums[i] += values[comptime!(d * rows + i)] * of_factor[d];
            }
        }
        k += comptime!(depth as u32 * SLICES);
    }
    let mut memory = Shared::<[f32]>::new_slice(comptime!((RANKS * SLICES) as usize));
    #[unroll]
    for i in 0..rows {
        memory[UNIT_POS as usize] = sums[i];
        sync_cube();
        let mut half = comptime!(SLICES / 2).runtime();
        while half > 0 {
            if UNIT_POS_Y < half {
                let other = memory[(UNIT_POS + half * comptime!(RANKS)) as usize];
                memory[UNIT_POS as usize] += other;
            }
            sync_cube();
            half >>= 1;
        }
        let row = comptime!(i as u32);
        if UNIT_POS_Y == 0 && rank < part.rank && row < sizes.m {
            part.projected[(row * part.rank + rank) as usize] =
                memory[UNIT_POS_X as usize] * part.scale;
        }
        sync_cube();
    }
}
