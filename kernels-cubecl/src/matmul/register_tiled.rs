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

use super::fused::{Fusion, FusionKind, RmsNorm, added};
use super::problem::{Alignment, PackedFormat, Problem, RowSizes};
use crate::decode::{Words, code_of, select_values};
use crate::error::KernelError;
use crate::fused::glu::gated;
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
    launch_each(
        slice::from_ref(problem),
        &Fusion::NONE,
        slice::from_ref(output),
    )
}

/// Launches the kernel for all of some products of one `x` in one direction, whose weights have one format, and what is fused with
/// them: a norm forward, and the rest for one tile of rows.
///
/// # Errors
/// As [`launch`].
pub(super) fn launch_each(
    problems: &[Problem],
    fusion: &Fusion,
    outputs: &[Handle],
) -> Result<(), KernelError> {
    let Some(problem) = problems.first() else {
        return Ok(());
    };
    let client = &problem.client;
    let tile = Tile::new(problem.x.m);
    let tiles = problem.tiles(tile.rows)?;
    let mut cubes = 0;
    let mut parts = SequenceArg::new();
    let mut results = SequenceArg::new();
    for (i, problem) in problems.iter().enumerate() {
        // A gate and what it gates are multiplied by the same cubes.
        if let Some(output) = outputs.get(i) {
            cubes += problem.n.div_ceil(tile.columns * UNITS as usize) as u32;
            results.push(problem.output_arg(output));
        }
        parts.push(PartLaunch::new(
            problem.weight.words_arg(),
            problem.n as u32,
            cubes,
        ));
    }
    // SAFETY: the kernel guards every access by the sizes of the products; those of what is fused with them were checked against
    // these.
    unsafe {
        register_tiled_kernel::launch_unchecked(
            client,
            CubeCount::Static(cubes, tiles, 1),
            CubeDim::new_1d(UNITS),
            1,
            problem.x_arg(),
            fusion.norm_arg(),
            fusion.residual_arg().into(),
            parts,
            results,
            problem.row_sizes_arg(),
            problem.direction,
            problem.format(),
            tile,
            problems.len(),
            fusion.kind(),
            problem.x.dtype,
            fusion.weight_dtype(problem),
        );
    }
    Ok(())
}

/// A weight of a launch.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
struct Part {
    words: Words,
    /// Columns of the output.
    n: u32,
    /// The first cube that is the next part's.
    end: u32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn register_tiled_kernel<F: Float, W: Float, N: Size>(
    x: &[F],
    norm: ComptimeOption<RmsNorm<'_, W, N>>,
    residual: ComptimeOption<&[F]>,
    parts: Sequence<Part>,
    mut outputs: Sequence<Box<[F]>>,
    sizes: &RowSizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
    // These two tell instances apart: see `fused`.
    #[comptime] count: usize,
    #[comptime] fusion: FusionKind,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    if comptime!(fusion.gate.is_some()) {
        let first = (CUBE_POS_X * comptime!(UNITS) + UNIT_POS_X) * comptime!(tile.columns as u32);
        let part = &parts[0];
        let n = part.n;
        if first < n {
            let mut gate = tile_sums(x, &norm, part, first, sizes, direction, format, tile);
            let part = &parts[1];
            let up = tile_sums(x, &norm, part, first, sizes, direction, format, tile);
            #[unroll]
            for i in 0..comptime!(tile.rows * tile.columns) {
                gate[i] = gated(gate[i], up[i], comptime!(fusion.activation()));
            }
            write_tile(&gate, &residual, &mut outputs[0], first, n, sizes, tile);
        }
    } else {
        let mut begin = 0u32.runtime();
        #[unroll]
        for i in 0..count {
            let part = &parts[i];
            if CUBE_POS_X >= begin && CUBE_POS_X < part.end {
                let unit = (CUBE_POS_X - begin) * comptime!(UNITS) + UNIT_POS_X;
                let first = unit * comptime!(tile.columns as u32);
                if first < part.n {
                    let sums = tile_sums(x, &norm, part, first, sizes, direction, format, tile);
                    write_tile(
                        &sums,
                        &residual,
                        &mut outputs[i],
                        first,
                        part.n,
                        sizes,
                        tile,
                    );
                }
            }
            begin = part.end;
        }
    }
}

/// Returns the tile of the product from `first_column` on.
#[cube]
#[allow(clippy::too_many_arguments)]
fn tile_sums<F: Float, W: Float, N: Size>(
    x: &[F],
    norm: &ComptimeOption<RmsNorm<'_, W, N>>,
    part: &Part,
    first_column: u32,
    sizes: &RowSizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(tile.rows * tile.columns));
    #[unroll]
    for i in 0..comptime!(tile.rows * tile.columns) {
        sums[i] = f32::new(0.0);
    }
    // Rows and columns beyond the last are computed from the last and never written.
    let first_row = CUBE_POS_Y * comptime!(tile.rows as u32);
    let mut rows = Array::<u32>::new(tile.rows);
    #[unroll]
    for i in 0..tile.rows {
        rows[i] = min(first_row + comptime!(i as u32), sizes.m - 1) * sizes.x_stride;
    }
    let starts = Starts { rows, first_column };
    if comptime!(direction == Direction::Transposed) {
        multiply_columns::<F>(x, part, &starts, &mut sums, sizes, format, tile);
    } else {
        multiply_rows::<F, W, N>(x, norm, part, &starts, &mut sums, sizes, format, tile);
    }
    sums
}

/// Writes the tile of the output from `first_column` on.
#[cube]
fn write_tile<F: Float>(
    sums: &Array<f32>,
    residual: &ComptimeOption<&[F]>,
    output: &mut Box<[F]>,
    first_column: u32,
    n: u32,
    sizes: &RowSizes,
    #[comptime] tile: Tile,
) {
    let first_row = CUBE_POS_Y * comptime!(tile.rows as u32);
    #[unroll]
    for i in 0..tile.rows {
        let row = first_row + comptime!(i as u32);
        #[unroll]
        for c in 0..tile.columns {
            let column = first_column + comptime!(c as u32);
            if row < sizes.m && column < n {
                let at = row * n + column;
                let sum = added::<F>(sums[comptime!(i * tile.columns + c)], residual, at);
                output[at as usize] = F::cast_from(sum);
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
#[allow(clippy::too_many_arguments)]
fn multiply_rows<F: Float, W: Float, N: Size>(
    x: &[F],
    norm: &ComptimeOption<RmsNorm<'_, W, N>>,
    part: &Part,
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
    let mut squares = Array::<f32>::new(tile.rows);
    #[unroll]
    for i in 0..tile.rows {
        squares[i] = f32::new(0.0);
    }
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
                #[comptime]
                if let ComptimeOption::Some(norm) = norm {
                    let factor = norm.factors(k as usize).extract(0usize);
                    #[unroll]
                    for i in 0..tile.rows {
                        squares[i] += values[i] * values[i];
                        values[i] *= factor;
                    }
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
    #[comptime]
    if let ComptimeOption::Some(norm) = norm {
        #[unroll]
        for i in 0..tile.rows {
            let inverse = norm.inverse(squares[i], sizes.k);
            #[unroll]
            for c in 0..tile.columns {
                sums[comptime!(i * tile.columns + c)] *= inverse;
            }
        }
    }
}

/// Adds the products of the transposed direction, where the columns of the tile are columns of the weight.
#[cube]
fn multiply_columns<F: Float>(
    x: &[F],
    part: &Part,
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
