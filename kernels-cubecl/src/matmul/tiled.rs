//! The tiled product: both directions, any shape.
//!
//! Roofline: a tile of the output reads its rows of `x` (4 bytes an element) and its part of the weight
//! (0.52 bytes an element, decoded once per tile by the whole cube). With 64 × 64 tiles that is some
//! 28 FLOP a byte: on a GPU bound by the arithmetic of plain f32 units, and within the cube by shared
//! memory, from which a unit reads eight vectors of four for 64 multiply-adds.
//!
//! Launch: cubes of 256 units, one tile of the output each, `x` along the output's columns and `y` along
//! its rows; the contraction in steps of 32. A unit keeps 4 × 4 results (1 × 4 where the rows fill no
//! larger tile).
//!
//! The weight is staged in the order in which it lies in memory, so that a run of eight decoded
//! elements is two vectors in either direction. Forward, both operands then have the contraction inside
//! a vector and a result is a vector of partial sums, added up at the end; transposed, the weight has
//! the output's columns inside and four results are one vector.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Direction, Problem};
use crate::decode::{Words, decode_run, fill_table};
use crate::error::KernelError;
use crate::format::CodeTable;

type Four = Vector<f32, Const<4>>;

/// Columns of a tile of the output.
const COLUMNS: usize = 64;
/// Elements of the contraction that are staged at once.
const STEP: usize = 32;
/// Units of a cube: each decodes one run of eight a step.
const UNITS: usize = COLUMNS * STEP / 8;
/// Units along the columns of a tile, and along its rows.
const SIDE: usize = 16;
/// Columns that a unit keeps.
const KEPT: usize = COLUMNS / SIDE;
/// Rows that a unit keeps when there are enough of them.
const MANY_ROWS: usize = 4;
/// Vectors from one staged row of the contraction's length to the next: odd, so that reading down
/// the rows does not hit one bank of shared memory.
const PITCH: usize = STEP / 4 + 1;

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
    let kept_rows = if problem.x.m <= SIDE { 1 } else { MANY_ROWS };
    let columns = problem.outer.div_ceil(COLUMNS) as u32;
    let rows = problem.x.m.div_ceil(SIDE * kept_rows) as u32;
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
            kept_rows,
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
    #[comptime] kept_rows: usize,
    #[comptime] aligned: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let mut x_tile = Shared::<[Four]>::new_slice(comptime!(SIDE * kept_rows * PITCH));
    let mut w_tile = Shared::<[Four]>::new_slice(comptime!(COLUMNS * PITCH));
    fill_table(&mut table, codes);

    let column = (UNIT_POS % comptime!(SIDE as u32)) as usize;
    let row = (UNIT_POS / comptime!(SIDE as u32)) as usize;
    let first_row = CUBE_POS_Y * comptime!((SIDE * kept_rows) as u32);
    let first_column = CUBE_POS_X * comptime!(COLUMNS as u32);
    let vectors = comptime!(if transposed {
        kept_rows
    } else {
        kept_rows * KEPT
    });
    let mut results = Array::<Four>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        results[i] = Four::new(f32::new(0.0));
    }
    sync_cube();

    let mut start = 0u32;
    while start < inner {
        load_x::<F>(
            x,
            &mut x_tile,
            first_row,
            start,
            m,
            inner,
            x_stride,
            kept_rows,
        );
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
        for k in 0..comptime!(STEP / 4) {
            if transposed {
                accumulate_columns(&x_tile, &w_tile, row, column, k, &mut results, kept_rows);
            } else {
                accumulate_products(&x_tile, &w_tile, row, column, k, &mut results, kept_rows);
            }
        }
        sync_cube();
        start += comptime!(STEP as u32);
    }

    #[unroll]
    for i in 0..kept_rows {
        #[unroll]
        for j in 0..KEPT {
            let y_row = first_row + row as u32 + comptime!((i * SIDE) as u32);
            if transposed {
                let y_column = first_column + column as u32 * comptime!(KEPT as u32);
                let y_column = y_column + comptime!(j as u32);
                if y_row < m && y_column < outer {
                    output[(y_row * outer + y_column) as usize] =
                        F::cast_from(results[i].extract(j));
                }
            } else {
                let y_column = first_column + column as u32 + comptime!((j * SIDE) as u32);
                if y_row < m && y_column < outer {
                    let partial = results[comptime!(i * KEPT + j)];
                    output[(y_row * outer + y_column) as usize] = F::cast_from(
                        (partial.extract(0usize) + partial.extract(1usize))
                            + (partial.extract(2usize) + partial.extract(3usize)),
                    );
                }
            }
        }
    }
}

/// Forward: four elements of the contraction at once, a vector of partial sums a result. A unit's
/// columns are [`SIDE`] apart, so that neighbouring units read neighbouring rows of the weight.
#[cube]
fn accumulate_products(
    x_tile: &Shared<[Four]>,
    w_tile: &Shared<[Four]>,
    row: usize,
    column: usize,
    k: usize,
    results: &mut Array<Four>,
    #[comptime] kept_rows: usize,
) {
    let mut right = Array::<Four>::new(KEPT);
    #[unroll]
    for j in 0..KEPT {
        right[j] = w_tile[(column + comptime!(j * SIDE)) * PITCH + k];
    }
    #[unroll]
    for i in 0..kept_rows {
        let left = x_tile[(row + comptime!(i * SIDE)) * PITCH + k];
        #[unroll]
        for j in 0..KEPT {
            results[comptime!(i * KEPT + j)] += left * right[j];
        }
    }
}

/// Transposed: four rows of the weight, one after another, each a vector of four columns.
#[cube]
fn accumulate_columns(
    x_tile: &Shared<[Four]>,
    w_tile: &Shared<[Four]>,
    row: usize,
    column: usize,
    k: usize,
    results: &mut Array<Four>,
    #[comptime] kept_rows: usize,
) {
    let mut right = Array::<Four>::new(4usize);
    #[unroll]
    for c in 0..4usize {
        right[c] = w_tile[(k * 4 + c) * comptime!(COLUMNS / 4) + column];
    }
    #[unroll]
    for i in 0..kept_rows {
        let left = x_tile[(row + comptime!(i * SIDE)) * PITCH + k];
        #[unroll]
        for c in 0..4usize {
            results[i] += Four::new(left.extract(c)) * right[c];
        }
    }
}

/// Stages `x[first_row.., start..]` as rows of vectors, zero beyond the edges.
#[cube]
fn load_x<F: Float>(
    x: &[F],
    tile: &mut Shared<[Four]>,
    first_row: u32,
    start: u32,
    m: u32,
    inner: u32,
    x_stride: u32,
    #[comptime] kept_rows: usize,
) {
    let vectors = comptime!((SIDE * kept_rows * STEP / 4) as u32);
    #[unroll]
    for i in 0..comptime!((SIDE * kept_rows * STEP / 4).div_ceil(UNITS)) {
        let vector = UNIT_POS + comptime!((i * UNITS) as u32);
        if vector < vectors {
            let k = vector % comptime!(STEP as u32 / 4);
            let row = vector / comptime!(STEP as u32 / 4);
            let mut value = Four::new(f32::new(0.0));
            if first_row + row < m {
                let at = start + k * 4;
                let from = (first_row + row) * x_stride + at;
                #[unroll]
                for c in 0..4usize {
                    if at + comptime!(c as u32) < inner {
                        value.insert(c, f32::cast_from(x[from as usize + c]));
                    }
                }
            }
            tile[row as usize * PITCH + k as usize] = value;
        }
    }
}

/// Stages the part of the weight that a step needs, zero beyond the edges: each unit decodes one run of
/// eight along a row of the weight and writes two vectors.
#[cube]
fn load_weight(
    words: &Words,
    table: &Shared<[f32]>,
    tile: &mut Shared<[Four]>,
    first_column: u32,
    start: u32,
    inner: u32,
    outer: u32,
    #[comptime] transposed: bool,
    #[comptime] aligned: bool,
) {
    let mut run = Array::<f32>::new(8usize);
    let mut count = 0u32;
    if transposed {
        // Rows of the weight are the contraction: `[STEP, COLUMNS]`.
        let k = UNIT_POS / comptime!((COLUMNS / 8) as u32);
        let column = UNIT_POS % comptime!((COLUMNS / 8) as u32) * 8;
        if start + k < inner && first_column + column < outer {
            count = outer - first_column - column;
        }
        let first = (start + k) * outer + first_column + column;
        decode_run(words, table, first, count, &mut run, aligned);
        write_run(
            &run,
            tile,
            (k * comptime!(COLUMNS as u32 / 4) + column / 4) as usize,
        );
    } else {
        // Rows of the weight are the output's columns: `[COLUMNS, STEP]`.
        let k = UNIT_POS % comptime!((STEP / 8) as u32) * 8;
        let column = UNIT_POS / comptime!((STEP / 8) as u32);
        if start + k < inner && first_column + column < outer {
            count = inner - start - k;
        }
        let first = (first_column + column) * inner + start + k;
        decode_run(words, table, first, count, &mut run, aligned);
        write_run(
            &run,
            tile,
            (column * comptime!(PITCH as u32) + k / 4) as usize,
        );
    }
}

#[cube]
fn write_run(run: &Array<f32>, tile: &mut Shared<[Four]>, at: usize) {
    #[unroll]
    for half in 0..2usize {
        let mut vector = Four::new(f32::new(0.0));
        #[unroll]
        for c in 0..4usize {
            vector.insert(c, run[comptime!(half * 4 + c)]);
        }
        tile[at + half] = vector;
    }
}
