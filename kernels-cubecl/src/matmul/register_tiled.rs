//! The product without shared memory: each unit keeps a tile of the output in its registers and reads both
//! operands from global memory.
//!
//! For software rasterizers. There an instruction serves all units of a plane at once, a barrier suspends a
//! coroutine, shared memory is memory like any other, and a load is done unit by unit, some 60 instructions: what
//! counts is multiply-adds a load. A word brings eight weights with one load, so this multiplies the packed
//! weight faster than any kernel there multiplies a dense one.
//!
//! Launch: cubes of one dimension along the output's columns; `y` counts tiles of rows.

use std::slice;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::Direction;

use super::problem::{Alignment, PackedFormat, Problem, RowSizes};
use crate::decode::{Words, code_of, select_values};
use crate::error::KernelError;
use crate::scales::{minimum_of, scale_of, scaled};

/// Units of a cube.
const UNITS: u32 = 8;

/// The part of the output that a unit keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    rows: usize,
    columns: usize,
}

impl Tile {
    /// Returns the tile for `m` rows, which are taken in powers of two, so that there are few kernels to compile.
    fn new(m: usize) -> Self {
        let rows = m.next_power_of_two().min(8);
        Self { rows, columns: 16 }
    }
}

/// Launches the kernel.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn launch(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    launch_each(slice::from_ref(problem), slice::from_ref(output))
}

/// Launches the kernel for all of some products of one `x` in one direction, whose weights have one format.
///
/// # Errors
/// As [`launch`].
pub(super) fn launch_each(problems: &[Problem], outputs: &[Handle]) -> Result<(), KernelError> {
    let Some(problem) = problems.first() else {
        return Ok(());
    };
    let client = &problem.client;
    let tile = Tile::new(problem.x.m);
    let tiles = problem.tiles(tile.rows)?;
    let mut cubes = 0;
    let mut parts = SequenceArg::new();
    for (problem, output) in problems.iter().zip(outputs) {
        cubes += problem.n.div_ceil(tile.columns * UNITS as usize) as u32;
        parts.push(PartLaunch::new(
            problem.weight.words_arg(),
            problem.output_arg(output),
            problem.n as u32,
            cubes,
        ));
    }
    // SAFETY: the kernel guards every access by the sizes of the products.
    unsafe {
        register_tiled_kernel::launch_unchecked(
            client,
            CubeCount::Static(cubes, tiles, 1),
            CubeDim::new_1d(UNITS),
            problem.x_arg(),
            parts,
            problem.row_sizes_arg(),
            problem.direction,
            problem.format(),
            tile,
            problems.len(),
            problem.x.dtype,
        );
    }
    Ok(())
}

/// A weight of a launch, and where its product goes.
#[derive(CubeType, CubeLaunch)]
struct Part<F: Float> {
    words: Words,
    output: Box<[F]>,
    /// Columns of the output.
    n: u32,
    /// The first cube that is the next part's.
    end: u32,
}

#[cube(launch_unchecked)]
fn register_tiled_kernel<F: Float>(
    x: &[F],
    mut parts: Sequence<Part<F>>,
    sizes: &RowSizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
    // Tells instances apart: see `fused`.
    #[comptime] count: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut begin = 0u32.runtime();
    #[unroll]
    for i in 0..count {
        let part = &mut parts[i];
        if CUBE_POS_X >= begin && CUBE_POS_X < part.end {
            let unit = (CUBE_POS_X - begin) * comptime!(UNITS) + UNIT_POS_X;
            let first_column = unit * comptime!(tile.columns as u32);
            multiply_tile::<F>(x, part, first_column, sizes, direction, format, tile);
        }
        begin = part.end;
    }
}

/// Writes the tile of the output from `first_column` on.
#[cube]
fn multiply_tile<F: Float>(
    x: &[F],
    part: &mut Part<F>,
    first_column: u32,
    sizes: &RowSizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let first_row = CUBE_POS_Y * comptime!(tile.rows as u32);
    if first_column < part.n {
        let mut sums = Array::<f32>::new(comptime!(tile.rows * tile.columns));
        #[unroll]
        for i in 0..comptime!(tile.rows * tile.columns) {
            sums[i] = f32::new(0.0);
        }
        // Rows and columns beyond the last are computed from the last and never written.
        let mut rows = Array::<u32>::new(tile.rows);
        #[unroll]
        for i in 0..tile.rows {
            rows[i] = min(first_row + comptime!(i as u32), sizes.m - 1) * sizes.x_stride;
        }
        let starts = Starts { rows, first_column };
        if comptime!(direction == Direction::Transposed) {
            multiply_columns::<F>(x, &*part, &starts, &mut sums, sizes, format, tile);
        } else {
            multiply_rows::<F>(x, &*part, &starts, &mut sums, sizes, format, tile);
        }
        #[unroll]
        for i in 0..tile.rows {
            let row = first_row + comptime!(i as u32);
            #[unroll]
            for c in 0..tile.columns {
                let column = first_column + comptime!(c as u32);
                if row < sizes.m && column < part.n {
                    part.output[(row * part.n + column) as usize] =
                        F::cast_from(sums[comptime!(i * tile.columns + c)]);
                }
            }
        }
    }
}

/// The place of a unit's tile in the product.
#[derive(CubeType)]
struct Starts {
    /// The first element of each row of `x`.
    rows: Array<u32>,
    /// The first column of the output.
    first_column: u32,
}

/// Adds the products of the forward direction, where the columns of the tile are rows of the weight.
///
/// Scales, words and elements are loaded in loops of their own: a rasterizer executes both sides of a branch.
#[cube]
fn multiply_rows<F: Float>(
    x: &[F],
    part: &Part<F>,
    starts: &Starts,
    sums: &mut Array<f32>,
    sizes: &RowSizes,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let codes = comptime!(format.codes);
    let alignment = comptime!(format.alignment);
    let mut columns = Array::<u32>::new(tile.columns);
    #[unroll]
    for c in 0..tile.columns {
        columns[c] = min(starts.first_column + comptime!(c as u32), part.n - 1) * sizes.k;
    }
    let mut scales = Array::<f32>::new(tile.columns);
    let mut minima = Array::<f32>::new(tile.columns);
    let mut packed = Array::<u32>::new(tile.columns);
    let per_word = comptime!(codes.per_word() as u32);
    let (scale_step, word_step) = comptime!(match alignment {
        Alignment::Blocks(size) => (size as u32, per_word),
        Alignment::Words => (per_word, per_word),
        Alignment::Elements => (1, 1),
    });
    let mut k = 0u32;
    while k < sizes.k {
        #[unroll]
        for c in 0..tile.columns {
            scales[c] = scale_of(&part.words.scales, columns[c] + k);
            if comptime!(codes.has_minima()) {
                minima[c] = minimum_of(&part.words.scales, columns[c] + k);
            }
        }
        for _ in 0..comptime!(scale_step / word_step) {
            #[unroll]
            for c in 0..tile.columns {
                packed[c] = code_of(&part.words, columns[c] + k, codes);
            }
            for _ in 0..word_step {
                let mut values = Array::<f32>::new(tile.rows);
                #[unroll]
                for i in 0..tile.rows {
                    values[i] = f32::cast_from(x[(starts.rows[i] + k) as usize]);
                }
                #[unroll]
                for c in 0..tile.columns {
                    let code = Vector::<u32, Const<1>>::new(packed[c]);
                    let value = select_values(code, 0usize, codes).extract(0usize);
                    let w = scaled(value, scales[c], minima[c], codes);
                    packed[c] >>= comptime!(codes.bits() as u32);
                    #[unroll]
                    for i in 0..tile.rows {
                        sums[comptime!(i * tile.columns + c)] += values[i] * w;
                    }
                }
                k += 1;
            }
        }
    }
}

/// Adds the products of the transposed direction, where the columns of the tile are columns of the weight.
#[cube]
fn multiply_columns<F: Float>(
    x: &[F],
    part: &Part<F>,
    starts: &Starts,
    sums: &mut Array<f32>,
    sizes: &RowSizes,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let codes = comptime!(format.codes);
    let alignment = comptime!(format.alignment);
    for k in 0..sizes.k {
        let mut values = Array::<f32>::new(tile.rows);
        #[unroll]
        for i in 0..tile.rows {
            values[i] = f32::cast_from(x[(starts.rows[i] + k) as usize]);
        }
        let mut packed = Vector::<u32, Const<1>>::new(0u32);
        let mut scale = f32::new(0.0);
        let mut minimum = f32::new(0.0);
        #[unroll]
        for c in 0..tile.columns {
            let column = min(starts.first_column + comptime!(c as u32), part.n - 1);
            let element = k * part.n + column;
            let bit = comptime!(if alignment == Alignment::Elements {
                0
            } else {
                codes.bits() * (c % codes.per_word())
            });
            if comptime!(bit == 0) {
                packed = Vector::new(code_of(&part.words, element, codes));
            }
            if comptime!(c == 0 || alignment.begins_block(c)) {
                scale = scale_of(&part.words.scales, element);
                if comptime!(codes.has_minima()) {
                    minimum = minimum_of(&part.words.scales, element);
                }
            }
            let value = select_values(packed, bit, codes).extract(0usize);
            let w = scaled(value, scale, minimum, codes);
            #[unroll]
            for i in 0..tile.rows {
                sums[comptime!(i * tile.columns + c)] += values[i] * w;
            }
        }
    }
}
