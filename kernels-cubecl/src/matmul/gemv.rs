//! The forward product of few rows, as generation needs it.
//!
//! Roofline: reads the weight once (0.52 bytes an element for two FLOP a row): bound by memory. Nothing is
//! staged; the rows of `x` are small enough to stay in the caches.
//!
//! Launch: cubes of 32 lanes × 8 rows of the weight; `y` counts groups of rows of `x` that are
//! multiplied at once. A lane decodes every 32nd run of eight of its row and the lanes add up through
//! shared memory.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::Problem;
use crate::decode::{Words, decode_run, fill_table};
use crate::error::KernelError;
use crate::format::CodeTable;

/// Units that share a row of the weight.
const LANES: usize = 32;
/// Rows of the weight that a cube multiplies.
const FEATURES: usize = 8;
/// Rows of `x` that are multiplied by a decoded run at once when there is more than one.
const GROUP: usize = 4;

/// Launches the kernel.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn launch(client: &Client, problem: &Problem<'_>) -> Result<(), KernelError> {
    let (words, _) = problem.weight.launch_arg()?;
    let group = if problem.x.m == 1 { 1 } else { GROUP };
    let groups = problem.x.m.div_ceil(group) as u32;
    problem.check_grid(client, groups)?;
    // SAFETY: the kernel guards every access by the sizes of the problem.
    unsafe {
        gemv_kernel::launch_unchecked(
            client,
            CubeCount::Static(problem.outer.div_ceil(FEATURES) as u32, groups, 1),
            CubeDim::new_2d(LANES as u32, FEATURES as u32),
            problem.x_arg(),
            words,
            problem.output_arg(),
            problem.x.m as u32,
            problem.inner as u32,
            problem.outer as u32,
            problem.x.row_stride as u32,
            problem.weight.format.table,
            group,
            problem.aligned(),
            problem.x.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn gemv_kernel<F: Float>(
    x: &[F],
    words: &Words,
    output: &mut [F],
    m: u32,
    inner: u32,
    outer: u32,
    x_stride: u32,
    #[comptime] codes: CodeTable,
    #[comptime] group: usize,
    #[comptime] aligned: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let mut partial = Shared::<[f32]>::new_slice(comptime!(LANES * FEATURES));
    fill_table(&mut table, codes);
    sync_cube();

    let feature = CUBE_POS_X * comptime!(FEATURES as u32) + UNIT_POS_Y;
    let first_row = CUBE_POS_Y * comptime!(group as u32);
    let mut sums = Array::<f32>::new(group);
    #[unroll]
    for i in 0..group {
        sums[i] = f32::new(0.0);
    }
    if feature < outer {
        let mut run = Array::<f32>::new(8usize);
        let mut start = UNIT_POS_X * 8;
        while start < inner {
            let count = inner - start;
            decode_run(
                words,
                &table,
                feature * inner + start,
                count,
                &mut run,
                aligned,
            );
            #[unroll]
            for i in 0..group {
                // Rows beyond the last are computed from the last and never written.
                let row = min(first_row + comptime!(i as u32), m - 1);
                let first = row * x_stride + start;
                #[unroll]
                for j in 0..8usize {
                    if aligned || count > comptime!(j as u32) {
                        sums[i] += f32::cast_from(x[first as usize + j]) * run[j];
                    }
                }
            }
            start += comptime!((8 * LANES) as u32);
        }
    }

    #[unroll]
    for i in 0..group {
        partial[UNIT_POS as usize] = sums[i];
        sync_cube();
        let mut half = comptime!(LANES as u32 / 2).runtime();
        while half > 0 {
            if UNIT_POS_X < half {
                let other = partial[(UNIT_POS + half) as usize];
                partial[UNIT_POS as usize] += other;
            }
            sync_cube();
            half >>= 1;
        }
        let row = first_row + comptime!(i as u32);
        if UNIT_POS_X == 0 && feature < outer && row < m {
            output[(row * outer + feature) as usize] = F::cast_from(partial[UNIT_POS as usize]);
        }
        sync_cube();
    }
}
