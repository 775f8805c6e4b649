//! The tiled product: both directions, any shape.
//!
//! Roofline: a tile of the output reads its rows of `x` (4 bytes an element) and its part of the weight
//! (0.52 bytes an element, decoded once per tile by the whole cube). With 64 × 64 tiles that is some
//! 28 FLOP a byte: on a GPU bound by the arithmetic of plain f32 units, and within the cube by shared
//! memory, which each unit reads eight times for 16 multiply-adds.
//!
//! Launch: cubes of 256 units, one 64 × 64 tile of the output each, `x` along the output's columns
//! and `y` along its rows; the contraction in steps of [`STEP`]. A unit keeps 4 × 4 results, 16 apart in both
//! directions, so that neighbouring units read neighbouring columns.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Direction, Problem};
use crate::decode::{Words, decode_run, fill_table};
use crate::error::KernelError;
use crate::format::CodeTable;

/// Rows and columns of a tile of the output.
const TILE: usize = 64;
/// Elements of the contraction that are staged at once.
const STEP: usize = 32;
/// Units of a cube: each decodes one run of eight a step.
const UNITS: usize = TILE * STEP / 8;
/// Results a unit keeps in each direction, and their distance.
const RESULTS: usize = 4;
const APART: usize = TILE / RESULTS;
/// Row length of the staged `x`: padded, so that writing it down a column does not hit one bank.
const X_PITCH: usize = TILE + 4;

/// Launches the kernel.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn launch(
    client: &Client,
    problem: &Problem<'_>,
    direction: Direction,
) -> Result<(), KernelError> {
    let (words, _) = problem.weight.launch_arg()?;
    let columns = problem.outer.div_ceil(TILE) as u32;
    let rows = problem.x.m.div_ceil(TILE) as u32;
    problem.check_grid(client, rows)?;
    // SAFETY: the kernel guards every access by the sizes of the problem.
    unsafe {
        tiled_kernel::launch_unchecked(
            client,
            CubeCount::Static(columns, rows, 1),
            CubeDim::new_1d(UNITS as u32),
            problem.x_arg(),
            words,
            problem.output_arg(),
            problem.x.m as u32,
            problem.inner as u32,
            problem.outer as u32,
            problem.x.row_stride as u32,
            problem.weight.format.table,
            direction == Direction::Transposed,
            problem.aligned(),
            problem.x.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn tiled_kernel<F: Float>(
    x: &[F],
    words: &Words,
    output: &mut [F],
    m: u32,
    inner: u32,
    outer: u32,
    x_stride: u32,
    #[comptime] codes: CodeTable,
    #[comptime] transposed: bool,
    #[comptime] aligned: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let mut x_tile = Shared::<[f32]>::new_slice(comptime!(STEP * X_PITCH));
    let mut w_tile = Shared::<[f32]>::new_slice(comptime!(STEP * TILE));
    fill_table(&mut table, codes);

    let column = (UNIT_POS % comptime!(APART as u32)) as usize;
    let row = (UNIT_POS / comptime!(APART as u32)) as usize;
    let first_row = CUBE_POS_Y * comptime!(TILE as u32);
    let first_column = CUBE_POS_X * comptime!(TILE as u32);
    let mut results = Array::<f32>::new(comptime!(RESULTS * RESULTS));
    #[unroll]
    for i in 0..comptime!(RESULTS * RESULTS) {
        results[i] = f32::new(0.0);
    }
    sync_cube();

    let mut start = 0u32;
    while start < inner {
        load_x::<F>(x, &mut x_tile, first_row, start, m, inner, x_stride);
        load_weight(
            words,
            &table,
            &mut w_tile,
            first_column,
            start,
            inner,
            outer,
            transposed,
            aligned,
        );
        sync_cube();
        for k in 0..STEP {
            #[unroll]
            for i in 0..RESULTS {
                let left = x_tile[k * X_PITCH + row + comptime!(i * APART)];
                #[unroll]
                for j in 0..RESULTS {
                    let right = w_tile[k * TILE + column + comptime!(j * APART)];
                    results[comptime!(i * RESULTS + j)] += left * right;
                }
            }
        }
        sync_cube();
        start += comptime!(STEP as u32);
    }

    #[unroll]
    for i in 0..RESULTS {
        #[unroll]
        for j in 0..RESULTS {
            let y_row = first_row + row as u32 + comptime!((i * APART) as u32);
            let y_column = first_column + column as u32 + comptime!((j * APART) as u32);
            if y_row < m && y_column < outer {
                output[(y_row * outer + y_column) as usize] =
                    F::cast_from(results[comptime!(i * RESULTS + j)]);
            }
        }
    }
}

/// Stages `x[first_row.., start..]` as `[STEP, TILE]`, zero beyond the edges. Neighbouring units read
/// neighbouring elements of a row.
#[cube]
fn load_x<F: Float>(
    x: &[F],
    tile: &mut Shared<[f32]>,
    first_row: u32,
    start: u32,
    m: u32,
    inner: u32,
    x_stride: u32,
) {
    #[unroll]
    for i in 0..comptime!(TILE * STEP / UNITS) {
        let element = UNIT_POS + comptime!((i * UNITS) as u32);
        let k = element % comptime!(STEP as u32);
        let row = element / comptime!(STEP as u32);
        let mut value = f32::new(0.0);
        if first_row + row < m && start + k < inner {
            value = f32::cast_from(x[((first_row + row) * x_stride + start + k) as usize]);
        }
        tile[k as usize * X_PITCH + row as usize] = value;
    }
}

/// Stages the weight as `[STEP, TILE]` (contraction × columns of the output), zero beyond the edges: each unit
/// decodes one run of eight along a row of the weight.
#[cube]
fn load_weight(
    words: &Words,
    table: &Shared<[f32]>,
    tile: &mut Shared<[f32]>,
    first_column: u32,
    start: u32,
    inner: u32,
    outer: u32,
    #[comptime] transposed: bool,
    #[comptime] aligned: bool,
) {
    let mut run = Array::<f32>::new(8usize);
    if transposed {
        // Rows of the weight are the contraction, its columns those of the output.
        let k = UNIT_POS / comptime!((TILE / 8) as u32);
        let column = UNIT_POS % comptime!((TILE / 8) as u32) * 8;
        let mut count = 0u32;
        if start + k < inner && first_column + column < outer {
            count = outer - first_column - column;
        }
        let first = (start + k) * outer + first_column + column;
        decode_run(words, table, first, count, &mut run, aligned);
        #[unroll]
        for i in 0..8usize {
            tile[k as usize * TILE + column as usize + i] = run[i];
        }
    } else {
        // Rows of the weight are the output's columns.
        let column = UNIT_POS % comptime!(TILE as u32);
        let k = UNIT_POS / comptime!(TILE as u32) * 8;
        let mut count = 0u32;
        if start + k < inner && first_column + column < outer {
            count = inner - start - k;
        }
        let first = (first_column + column) * inner + start + k;
        decode_run(words, table, first, count, &mut run, aligned);
        #[unroll]
        for i in 0..8usize {
            tile[(k as usize + i) * TILE + column as usize] = run[i];
        }
    }
}
