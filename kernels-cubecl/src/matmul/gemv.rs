//! The products of up to eight rows, as generation and small batches need them: the words are read once, 128 bits at a
//! time, and every word is decoded once for all rows.
//!
//! - `rows`, forward: a plane takes two rows of the weight, its lanes stride along them, and their sums are added
//!   up in the plane; the norm before and what becomes of the sums are on its way ([`super::fused`]).
//! - `columns`, transposed: a cube takes 256 columns of the weight (128 of codes of 8 bits) and a range of its rows. Loads of 128 bits
//!   bring 32 columns to a unit, whose sums for eight rows would not fit its registers; so the words pass through shared
//!   memory, and a unit takes one column of words and every fourth row. Ranges that several cubes share are
//!   added up by a second kernel, in an order that does not depend on timing.
//!
//! Both need rows of the weight to begin on a word.
//!
//! # Roofline
//!
//! Bytes: the weight once, 0.52 an element; transposed, each range adds a write and a read of `y` in f32. Operations: a shift,
//! a mask, a table read and a product a weight, then one multiply-add a row: 4 + m instructions. LLaMA-7B's
//! 11008 × 4096 (45.1 M weights, 23.3 MB packed) from data sheets (RTX 4090: 1.01 TB/s and 41 T instructions/s; H100 SXM:
//! 3.35 TB/s and 30 T instructions/s), in µs:
//!
//! | m | RTX 4090: bytes, instructions | H100: bytes, instructions | bound by |
//! | --- | --- | --- | --- |
//! | 1 | 23, 6 | 7, 8 | bytes; evenly on the H100 |
//! | 8 | 24, 13 | 7, 18 | bytes; instructions on the H100 |
//!
//! bitsandbytes' forward for few rows reads the same bytes (23 and 7 µs for one); its backward decodes the whole weight, 4.5
//! bytes a weight: 202 and 61 µs. 4096 × 4096 is 0.37 of all these. Predictions: none was run.

use std::slice;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::Direction;

use super::fused::{Fusion, FusionKind, RmsNorm, added};
use super::planes::{Lanes, PLANES, lane_sum};
use super::problem::{Alignment, PackedFormat, Problem, RowSizes, Sizes};
use crate::decode::{fill_table, value_of};
use crate::error::KernelError;
use crate::fused::glu::gated;
use crate::operand::buffer;
use crate::scales::{Scales, minimum_of, scale_of, scaled};
use crate::scattered::{scattered, scattered_len};

/// The most rows of `x` of the kernel for few rows: up to this many a GPU reads the weight for longer than it multiplies by
/// it, and eight sums for each of eight columns are 64 registers.
pub const MAX_ROWS: usize = 8;

/// Words of a 128-bit load.
const WIDE: usize = 4;
/// Rows of the weight that a plane multiplies at once: what it reads of `x` serves both.
const FEATURES: usize = 2;

/// Units of a cube, transposed.
const UNITS: usize = 128;
/// Words of a row of the tile that a cube stages, transposed.
const TILE_WORDS: usize = 32;
/// Rows of that tile: a 128-bit load a unit.
const TILE_ROWS: usize = UNITS * WIDE / TILE_WORDS;
/// Words of a tile.
const TILE: usize = TILE_ROWS * TILE_WORDS;
/// Rows of the tile that are multiplied at a time.
const SPLIT: usize = UNITS / TILE_WORDS;
/// Cubes that keep a GPU busy, transposed: four on each of some 128 multiprocessors.
const BUSY_CUBES: usize = 512;
/// The most ranges of `k`: each costs a write and a read of an output in f32.
const MAX_SPLITS: usize = 16;

/// Launches the kernel for `direction`.
///
/// # Errors
/// [`KernelError::Unavailable`] for more than [`MAX_ROWS`] rows, or where rows of the weight begin within a word.
pub(super) fn launch(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    match problem.direction {
        Direction::Forward => launch_rows(
            slice::from_ref(problem),
            &Fusion::NONE,
            slice::from_ref(output),
        ),
        Direction::Transposed => launch_columns(problem, output),
    }
}

fn check(problem: &Problem) -> Result<(), KernelError> {
    if problem.x.m > MAX_ROWS || problem.alignment() == Alignment::Elements {
        return Err(KernelError::Unavailable {
            operation: "matmul",
            reason: format!(
                "the kernel for few rows takes up to {MAX_ROWS} and columns in multiples of 8, not {} and {}",
                problem.x.m,
                problem.weight.layout.in_features()
            ),
        });
    }
    Ok(())
}

/// Returns the words of a load: 128 bits where all rows of the weight begin on such a boundary.
fn load_width(problem: &Problem) -> usize {
    let elements = problem.weight.codes().per_word() * WIDE;
    if problem.weight.layout.in_features().is_multiple_of(elements) {
        WIDE
    } else {
        1
    }
}

/// Returns the rows that an instance keeps sums for: powers of two, so that there are few to compile.
fn kept_rows(problem: &Problem) -> usize {
    problem.x.m.next_power_of_two()
}

/// Launches the kernel for all of some products of one `x`, whose weights have one format, and what is fused with them.
///
/// # Errors
/// As [`launch`].
pub(super) fn launch_rows(
    problems: &[Problem],
    fusion: &Fusion,
    outputs: &[Handle],
) -> Result<(), KernelError> {
    let Some(problem) = problems.first() else {
        return Ok(());
    };
    check(problem)?;
    let client = &problem.client;
    let lanes = Lanes::of(client);
    let x_vector = if problem.x.stride.is_multiple_of(4) {
        4
    } else {
        1
    };
    let mut cubes = 0;
    let mut parts = SequenceArg::new();
    let mut results = SequenceArg::new();
    for (i, problem) in problems.iter().enumerate() {
        // A gate and what it gates are multiplied by the same cubes.
        if let Some(output) = outputs.get(i) {
            cubes += problem.n.div_ceil(FEATURES * PLANES as usize) as u32;
            results.push(problem.output_arg(output));
        }
        parts.push(PartLaunch::new(
            problem.weight.packed_arg(),
            problem.weight.scales_arg(),
            problem.n as u32,
            cubes,
        ));
    }
    // SAFETY: the kernel guards every access by the sizes of the products; those of what is fused with them were checked against
    // these.
    unsafe {
        rows_kernel::launch_unchecked(
            client,
            CubeCount::Static(cubes, 1, 1),
            CubeDim::new_2d(lanes.count, PLANES),
            x_vector,
            load_width(problem),
            problem.x_arg(),
            fusion.norm_arg(),
            fusion.residual_arg().into(),
            parts,
            results,
            problem.row_sizes_arg(),
            problem.format(),
            kept_rows(problem),
            lanes,
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
struct Part<NW: Size> {
    packed: Box<[Vector<u32, NW>]>,
    scales: Scales,
    /// Rows of the weight.
    n: u32,
    /// The first cube that is the next part's.
    end: u32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn rows_kernel<F: Float, W: Float, NX: Size, NW: Size>(
    x: &[Vector<F, NX>],
    norm: ComptimeOption<RmsNorm<'_, W, NX>>,
    residual: ComptimeOption<&[F]>,
    parts: Sequence<Part<NW>>,
    mut outputs: Sequence<Box<[F]>>,
    sizes: &RowSizes,
    #[comptime] format: PackedFormat,
    #[comptime] rows: usize,
    #[comptime] lanes: Lanes,
    // These two tell instances apart: see `fused`.
    #[comptime] count: usize,
    #[comptime] fusion: FusionKind,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _weight_dtype: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    fill_table(&mut table, comptime!(format.codes));
    sync_cube();
    if comptime!(fusion.gate.is_some()) {
        let first = (CUBE_POS_X * PLANES + UNIT_POS_Y) * comptime!(FEATURES as u32);
        let block = comptime!(Block {
            part: 0,
            parts: 2,
            rows
        });
        let sums = feature_sums(x, &norm, &parts, first, sizes, &table, format, block, lanes);
        let mut gated_sums = Array::<f32>::new(comptime!(FEATURES * rows));
        #[unroll]
        for i in 0..comptime!(FEATURES * rows) {
            let up = sums[comptime!(FEATURES * rows + i)];
            gated_sums[i] = gated(sums[i], up, comptime!(fusion.activation()));
        }
        let part = &parts[0];
        let n = part.n;
        write_features(
            &gated_sums,
            &residual,
            &mut outputs[0],
            first,
            n,
            sizes,
            rows,
        );
    } else {
        let mut begin = 0u32.runtime();
        #[unroll]
        for i in 0..count {
            let part = &parts[i];
            let (n, end) = (part.n, part.end);
            if CUBE_POS_X >= begin && CUBE_POS_X < end {
                let first =
                    ((CUBE_POS_X - begin) * PLANES + UNIT_POS_Y) * comptime!(FEATURES as u32);
                let block = comptime!(Block {
                    part: i,
                    parts: 1,
                    rows
                });
                let sums =
                    feature_sums(x, &norm, &parts, first, sizes, &table, format, block, lanes);
                write_features(&sums, &residual, &mut outputs[i], first, n, sizes, rows);
            }
            begin = end;
        }
    }
}

/// The sums that a plane keeps at once, of the same features of some parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block {
    /// The first part.
    part: usize,
    parts: usize,
    /// Rows of `x`.
    rows: usize,
}

impl Block {
    fn features(self) -> usize {
        self.parts * FEATURES
    }

    /// Returns the part of a feature.
    fn part_of(self, feature: usize) -> usize {
        self.part + feature / FEATURES
    }
}

/// Returns the products with the features from `first_feature` on that a plane multiplies at once, those of one part after those of
/// another and `rows` of each, at least in its first lane.
#[cube]
#[allow(clippy::too_many_arguments)]
fn feature_sums<F: Float, W: Float, NX: Size, NW: Size>(
    x: &[Vector<F, NX>],
    norm: &ComptimeOption<RmsNorm<'_, W, NX>>,
    parts: &Sequence<Part<NW>>,
    first_feature: u32,
    sizes: &RowSizes,
    table: &Shared<[f32]>,
    #[comptime] format: PackedFormat,
    #[comptime] block: Block,
    #[comptime] lanes: Lanes,
) -> Array<f32> {
    let width = NW::value();
    let (codes, alignment) = comptime!((format.codes, format.alignment));
    let per_word = comptime!(codes.per_word());
    let x_width = NX::value();
    let (features, rows) = comptime!((block.features(), block.rows));
    let mut sums = Array::<f32>::new(comptime!(features * rows));
    let mut squares = Array::<f32>::new(rows);
    #[unroll]
    for i in 0..comptime!(features * rows) {
        sums[i] = f32::new(0.0);
    }
    #[unroll]
    for i in 0..rows {
        squares[i] = f32::new(0.0);
    }
    let loads = sizes.k / comptime!((per_word * width) as u32);
    let mut load = UNIT_POS_X;
    while load < loads {
        let start = load * comptime!((per_word * width) as u32);
        let mut read = Array::<Vector<u32, NW>>::new(features);
        let mut scale = Array::<f32>::new(features);
        let mut minimum = Array::<f32>::new(features);
        #[unroll]
        for f in 0..features {
            let part = &parts[comptime!(block.part_of(f))];
            // Features beyond the last are computed from the last and never written.
            let feature = min(first_feature + comptime!((f % FEATURES) as u32), part.n - 1);
            read[f] = part.packed[(feature * loads + load) as usize];
            scale[f] = f32::new(0.0);
        }
        #[unroll]
        for q in 0..width {
            let word_start = start + comptime!((per_word * q) as u32);
            #[unroll]
            for f in 0..features {
                if comptime!(q == 0 || alignment.begins_block(per_word * q)) {
                    let part = &parts[comptime!(block.part_of(f))];
                    let feature = min(first_feature + comptime!((f % FEATURES) as u32), part.n - 1);
                    scale[f] = scale_of(&part.scales, feature * sizes.k + word_start);
                    if comptime!(codes.has_minima()) {
                        minimum[f] = minimum_of(&part.scales, feature * sizes.k + word_start);
                    }
                }
            }
            #[unroll]
            for j in 0..comptime!(per_word / x_width) {
                // Of one base and a constant, which a load has in its instruction.
                let vector = comptime!((q * per_word) / x_width + j);
                let mut values = Array::<Vector<f32, NX>>::new(rows);
                #[unroll]
                for i in 0..rows {
                    let row = min(comptime!(i as u32).runtime(), sizes.m - 1) * sizes.x_stride;
                    let base = (row + start) as usize / x_width;
                    values[i] = Vector::cast_from(x[base + vector]);
                }
                #[comptime]
                if let ComptimeOption::Some(norm) = norm {
                    let factors = norm.factors(start as usize / x_width + vector);
                    #[unroll]
                    for i in 0..rows {
                        #[unroll]
                        for e in 0..x_width {
                            let value = values[i].extract(e);
                            squares[i] += value * value;
                        }
                        values[i] *= factors;
                    }
                }
                #[unroll]
                for e in 0..x_width {
                    #[unroll]
                    for f in 0..features {
                        let code = read[f].extract(q)
                            >> comptime!((codes.bits() * (j * x_width + e)) as u32);
                        let value = value_of(table, code, codes);
                        let w = scaled(value, scale[f], minimum[f], codes);
                        #[unroll]
                        for i in 0..rows {
                            sums[comptime!(f * rows + i)] += values[i].extract(e) * w;
                        }
                    }
                }
            }
        }
        load += comptime!(lanes.count);
    }
    #[unroll]
    for i in 0..comptime!(features * rows) {
        let total = lane_sum(sums[i], lanes);
        sums[i] = total;
    }
    #[comptime]
    if let ComptimeOption::Some(norm) = norm {
        #[unroll]
        for i in 0..rows {
            let inverse = norm.inverse(lane_sum(squares[i], lanes), sizes.k);
            #[unroll]
            for f in 0..features {
                sums[comptime!(f * rows + i)] *= inverse;
            }
        }
    }
    sums
}

/// Writes the columns of the output from `first_feature` on that a plane has the sums of.
#[cube]
fn write_features<F: Float>(
    sums: &Array<f32>,
    residual: &ComptimeOption<&[F]>,
    output: &mut Box<[F]>,
    first_feature: u32,
    n: u32,
    sizes: &RowSizes,
    #[comptime] rows: usize,
) {
    #[unroll]
    for f in 0..FEATURES {
        let feature = first_feature + comptime!(f as u32);
        #[unroll]
        for i in 0..rows {
            let row = comptime!(i as u32);
            if UNIT_POS_X == 0 && feature < n && row < sizes.m {
                let at = row * n + feature;
                let sum = added::<F>(sums[comptime!(f * rows + i)], residual, at);
                output[at as usize] = F::cast_from(sum);
            }
        }
    }
}

/// Returns the cubes along the output's columns, the tiles along `k`, and the ranges of `k` that cubes share these in.
fn grid_of_columns(k: usize, n: usize, per_word: usize) -> (usize, usize, usize) {
    let groups = (n / per_word).div_ceil(TILE_WORDS).max(1);
    let tiles = k.div_ceil(TILE_ROWS).max(1);
    let splits = (BUSY_CUBES / groups).clamp(1, tiles.min(MAX_SPLITS));
    (groups, tiles, splits)
}

/// Returns the most bytes that the kernel takes beside operands and result: transposed, the sums of several ranges of `k` in
/// f32. Codes of 8 bits have no more ranges than those of 4.
pub(super) fn workspace_bytes(m: usize, [k, n]: [usize; 2], direction: Direction) -> u128 {
    let (_, _, splits) = grid_of_columns(k, n, 8);
    let shares = direction == Direction::Transposed && m <= MAX_ROWS && splits > 1;
    if shares {
        4 * splits as u128 * m as u128 * n as u128
    } else {
        0
    }
}

fn launch_columns(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    check(problem)?;
    let client = &problem.client;
    let per_word = problem.weight.codes().per_word();
    let (groups, tiles, splits) = grid_of_columns(problem.k, problem.n, per_word);
    let outputs = problem.x.m * problem.n;
    let sums = if splits == 1 {
        output.clone()
    } else {
        client.empty(4 * splits * outputs)
    };
    let sums_dtype = if splits == 1 {
        problem.x.dtype
    } else {
        ElemType::Float(FloatKind::F32)
    };
    // SAFETY: the kernels guard every access by the sizes of the problem; `sums` was allocated for all splits.
    unsafe {
        columns_kernel::launch_unchecked(
            client,
            CubeCount::Static(groups as u32, splits as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            load_width(problem),
            problem.x_arg(),
            problem.weight.packed_arg(),
            problem.weight.scales_arg(),
            buffer(&sums, splits * outputs),
            problem.sizes_arg(),
            tiles.div_ceil(splits) as u32,
            problem.format(),
            kept_rows(problem),
            problem.x.dtype,
            sums_dtype,
        );
        if splits > 1 {
            let cube_dim = CubeDim::new_1d(UNITS as u32);
            add_splits::launch_unchecked(
                client,
                cubecl::calculate_cube_count_elemwise(client, outputs, cube_dim),
                cube_dim,
                buffer(&sums, splits * outputs),
                problem.output_arg(output),
                outputs as u32,
                splits as u32,
                problem.x.dtype,
            );
        }
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn columns_kernel<F: Float, S: Float, NW: Size>(
    x: &[F],
    packed: &[Vector<u32, NW>],
    scales: &Scales,
    sums: &mut [S],
    sizes: &Sizes,
    tiles: u32,
    #[comptime] format: PackedFormat,
    #[comptime] rows: usize,
    #[define(F)] _dtype: ElemType,
    #[define(S)] _sums_dtype: ElemType,
) {
    let width = NW::value();
    let (codes, alignment) = comptime!((format.codes, format.alignment));
    let per_word = comptime!(codes.per_word());
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let mut tile = Shared::<[u32]>::new_slice(comptime!(scattered_len(TILE, width)));
    // Of each word, and then of each the minimum.
    let mut tile_scales = Shared::<[f32]>::new_slice(comptime!({
        let parts = if codes.has_minima() { 2 } else { 1 };
        parts * scattered_len(TILE, width)
    }));
    let mut x_tile = Shared::<[f32]>::new_slice(comptime!(TILE_ROWS * rows));
    fill_table(&mut table, codes);

    let row_words = sizes.n / comptime!(per_word as u32);
    let first_word = CUBE_POS_X * comptime!(TILE_WORDS as u32);
    let word = UNIT_POS % comptime!(TILE_WORDS as u32);
    let part = UNIT_POS / comptime!(TILE_WORDS as u32);
    let mut kept = Array::<f32>::new(comptime!(per_word * rows));
    #[unroll]
    for i in 0..comptime!(per_word * rows) {
        kept[i] = f32::new(0.0);
    }

    for t in 0..tiles {
        let tile_row = (CUBE_POS_Y * tiles + t) * comptime!(TILE_ROWS as u32);
        sync_cube();
        #[unroll]
        for l in 0..comptime!(WIDE / width) {
            let slot = (UNIT_POS + comptime!((l * UNITS) as u32)) * comptime!(width as u32);
            let row = tile_row + slot / comptime!(TILE_WORDS as u32);
            let column = first_word + slot % comptime!(TILE_WORDS as u32);
            let mut read = Vector::<u32, NW>::zeroed();
            let mut scale = f32::new(0.0);
            let mut minimum = f32::new(0.0);
            // What lies outside decodes to 0 by a scale and a minimum of 0.
            let stored = row < sizes.k && column < row_words;
            if stored {
                read = packed[((row * row_words + column) / comptime!(width as u32)) as usize];
            }
            #[unroll]
            for q in 0..width {
                // One condition is the kernel's, the other its instance's.
                #[allow(clippy::collapsible_if)]
                if comptime!(q == 0 || alignment.begins_block(per_word * q)) {
                    if stored {
                        let first = row * sizes.n
                            + (column + comptime!(q as u32)) * comptime!(per_word as u32);
                        scale = scale_of(scales, first);
                        if comptime!(codes.has_minima()) {
                            minimum = minimum_of(scales, first);
                        }
                    }
                }
                let place = scattered(slot, q, TILE, width);
                tile[place] = read.extract(q);
                tile_scales[place] = scale;
                if comptime!(codes.has_minima()) {
                    tile_scales[place + comptime!(scattered_len(TILE, width))] = minimum;
                }
            }
        }
        let mut slot = UNIT_POS;
        while slot < comptime!((TILE_ROWS * rows) as u32) {
            let row = slot % comptime!(rows as u32);
            let k = tile_row + slot / comptime!(rows as u32);
            let mut value = f32::new(0.0);
            if row < sizes.m && k < sizes.k {
                value = f32::cast_from(x[(row * sizes.x_stride + k) as usize]);
            }
            x_tile[slot as usize] = value;
            slot += comptime!(UNITS as u32);
        }
        sync_cube();
        #[unroll]
        for r in 0..comptime!(TILE_ROWS / SPLIT) {
            let row = part as usize + comptime!(r * SPLIT);
            let slot = (part + comptime!((r * SPLIT) as u32)) * comptime!(TILE_WORDS as u32) + word;
            let place = scattered(slot, 0usize, TILE, width);
            let codes_of_word = tile[place];
            let scale = tile_scales[place];
            let minimum = if comptime!(codes.has_minima()) {
                tile_scales[place + comptime!(scattered_len(TILE, width))]
            } else {
                f32::new(0.0)
            };
            let mut values = Array::<f32>::new(rows);
            #[unroll]
            for i in 0..rows {
                values[i] = x_tile[row * rows + i];
            }
            #[unroll]
            for j in 0..per_word {
                let code = codes_of_word >> comptime!((codes.bits() * j) as u32);
                let w = scaled(value_of(&table, code, codes), scale, minimum, codes);
                #[unroll]
                for i in 0..rows {
                    kept[comptime!(i * per_word + j)] += values[i] * w;
                }
            }
        }
    }

    let mut others = Shared::<[f32]>::new_slice(comptime!((SPLIT - 1) * TILE_WORDS * per_word));
    #[unroll]
    for i in 0..rows {
        sync_cube();
        if part > 0 {
            let slot = (UNIT_POS - comptime!(TILE_WORDS as u32)) as usize;
            #[unroll]
            for j in 0..per_word {
                others[slot + comptime!(j * (SPLIT - 1) * TILE_WORDS)] =
                    kept[comptime!(i * per_word + j)];
            }
        }
        sync_cube();
        let row = comptime!(i as u32);
        if part == 0 && row < sizes.m && first_word + word < row_words {
            let first = (CUBE_POS_Y * sizes.m + row) * sizes.n
                + (first_word + word) * comptime!(per_word as u32);
            #[unroll]
            for j in 0..per_word {
                let mut total = kept[comptime!(i * per_word + j)];
                #[unroll]
                for p in 0..comptime!(SPLIT - 1) {
                    total += others[word as usize + comptime!((j * (SPLIT - 1) + p) * TILE_WORDS)];
                }
                sums[first as usize + j] = S::cast_from(total);
            }
        }
    }
}

/// Adds up the sums of the cubes of a column, first range first.
#[cube(launch_unchecked)]
fn add_splits<F: Float>(
    sums: &[f32],
    output: &mut [F],
    outputs: u32,
    splits: u32,
    #[define(F)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS as u32;
    if position < outputs {
        let mut total = f32::new(0.0);
        for s in 0..splits {
            total += sums[(s * outputs + position) as usize];
        }
        output[position as usize] = F::cast_from(total);
    }
}
