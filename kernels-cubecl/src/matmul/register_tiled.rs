//! The product without shared memory: each unit keeps a tile of the output in its registers and reads both
//! operands from global memory.
//!
//! For software rasterizers. There an instruction serves all units of a plane at once, a barrier suspends a
//! coroutine, shared memory is memory like any other, and a load is done unit by unit, some 60 instructions: what
//! counts is multiply-adds a load. A word brings eight weights with one load, so this multiplies the packed
//! weight faster than any kernel there multiplies a dense one.
//!
//! Launch: cubes of one dimension along the output's columns; `y` counts tiles of rows.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::Direction;

use super::problem::{Alignment, PackedFormat, Problem, Sizes};
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
    let client = &problem.client;
    let tile = Tile::new(problem.x.m);
    let grid = problem.grid(UNITS, tile.columns, tile.rows)?;
    // SAFETY: the kernel guards every access by the sizes of the problem.
    unsafe {
        register_tiled_kernel::launch_unchecked(
            client,
            grid,
            CubeDim::new_1d(UNITS),
            problem.x_arg(),
            problem.weight.words_arg(),
            problem.output_arg(output),
            problem.sizes_arg(),
            problem.direction,
            problem.format(),
            tile,
            problem.x.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn register_tiled_kernel<F: Float>(
    x: &[F],
    words: &Words,
    output: &mut [F],
    sizes: &Sizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let first_column = ABSOLUTE_POS_X * comptime!(tile.columns as u32);
    let first_row = CUBE_POS_Y * comptime!(tile.rows as u32);
    if first_column < sizes.n {
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
            multiply_columns::<F>(x, words, &starts, &mut sums, sizes, format, tile);
        } else {
            multiply_rows::<F>(x, words, &starts, &mut sums, sizes, format, tile);
        }
        #[unroll]
        for i in 0..tile.rows {
            let row = first_row + comptime!(i as u32);
            #[unroll]
            for c in 0..tile.columns {
                let column = first_column + comptime!(c as u32);
                if row < sizes.m && column < sizes.n {
                    output[(row * sizes.n + column) as usize] =
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
    words: &Words,
    starts: &Starts,
    sums: &mut Array<f32>,
    sizes: &Sizes,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let codes = comptime!(format.codes);
    let alignment = comptime!(format.alignment);
    let mut columns = Array::<u32>::new(tile.columns);
    #[unroll]
    for c in 0..tile.columns {
        columns[c] = min(starts.first_column + comptime!(c as u32), sizes.n - 1) * sizes.k;
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
            scales[c] = scale_of(&words.scales, columns[c] + k);
            if comptime!(codes.has_minima()) {
                minima[c] = minimum_of(&words.scales, columns[c] + k);
            }
        }
        for _ in 0..comptime!(scale_step / word_step) {
            #[unroll]
            for c in 0..tile.columns {
                packed[c] = code_of(words, columns[c] + k, codes);
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
    words: &Words,
    starts: &Starts,
    sums: &mut Array<f32>,
    sizes: &Sizes,
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
            let column = min(starts.first_column + comptime!(c as u32), sizes.n - 1);
            let element = k * sizes.n + column;
            let bit = comptime!(if alignment == Alignment::Elements {
                0
            } else {
                codes.bits() * (c % codes.per_word())
            });
            if comptime!(bit == 0) {
                packed = Vector::new(code_of(words, element, codes));
            }
            if comptime!(c == 0 || alignment.begins_block(c)) {
                scale = scale_of(&words.scales, element);
                if comptime!(codes.has_minima()) {
                    minimum = minimum_of(&words.scales, element);
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
