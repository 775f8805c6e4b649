//! The product on a CPU, but for few rows, which `dots` multiplies faster forward: panels of decoded columns in the caches,
//! multiplied by tiles kept in vector registers.
//!
//! A unit is a thread. It takes a strip of the output's columns and a block of its rows, decodes the strip's part of the
//! weight for a range of `k` into a panel of its own, and multiplies the block's rows by it, a tile at a time; then the
//! next range. The panel is some 32 KiB a thread: the decoded part is never the whole weight, nor ever in global memory.
//!
//! Decoding fills whole vectors. Forward, the lanes of a vector are rows of the weight, which are gathered, one
//! word each, for eight steps of the contraction; transposed, they are neighbours in a row, and one word fills
//! eight lanes. Either way a panel's vector holds neighbouring columns of the output, so one loop multiplies both.
//!
//! Roofline: with 16 lanes a vector of weights is decoded by a shift, a mask, a permutation and a product, with 8 by twice as
//! many; forward, gathering the words costs as much again. Multiplying takes an instruction a row. So up to about 8 rows the
//! decoding bounds the time, at some two weights a nanosecond and core, and memory never does (half a byte a weight); above,
//! the multiply-adds, which reach some 85 % of what two cores with AVX-512 can.

use cubecl::ir::{ElemType, HardwareProperties};
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::Direction;

use super::problem::{Alignment, PackedFormat, Problem, Sizes};
use crate::decode::{Words, code_of, permute_values};
use crate::error::KernelError;
use crate::scales::{minimum_of, scale_of, scaled_lanes};

/// Vectors of a panel: with 16 lanes, 32 KiB.
const PANEL_VECTORS: usize = 512;
/// Rows of `x` that share a decoded panel, about: decoding costs as much as multiplying some 8 rows.
const BLOCK_ROWS: usize = 240;

/// The tile of the output that fills the vector registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Elements of a vector.
    lanes: usize,
    /// Rows of the tile.
    rows: usize,
    /// Vectors of a row of the tile.
    vectors: usize,
}

impl Tile {
    /// Returns the tile for `m` rows and `n` columns on so many units: all but a few registers accumulate; one row or two take
    /// more columns instead, for the longer runs of words, as long as all units get as many.
    fn new(hardware: &HardwareProperties, units: usize, m: usize, n: usize) -> Self {
        let lanes = (hardware.load_width as usize / 32).clamp(4, 16);
        let most_of_a_unit = |vectors| n.div_ceil(lanes * vectors).div_ceil(units) * vectors;
        let (rows, vectors) = match m {
            1 if most_of_a_unit(4) < most_of_a_unit(8) => (1, 4),
            1 => (1, 8),
            2 => (2, 4),
            3..=4 => (4, 4),
            5..=8 => (8, 2),
            _ if hardware.vector_register_count.unwrap_or(16) >= 32 => (12, 2),
            _ => (6, 2),
        };
        Self {
            lanes,
            rows,
            vectors,
        }
    }

    /// Returns the columns of the output that the tile covers.
    fn columns(&self) -> usize {
        self.lanes * self.vectors
    }

    /// Returns the rows of `x` that share a panel.
    fn block_rows(&self) -> usize {
        BLOCK_ROWS.next_multiple_of(self.rows)
    }

    /// Returns the part of `k` that a panel holds: whole words, and whole blocks of up to 64.
    fn kc(&self) -> usize {
        PANEL_VECTORS / self.vectors
    }
}

/// Launches the kernel.
///
/// # Errors
/// [`KernelError::TooManyRows`].
pub(super) fn launch(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    let client = &problem.client;
    let hardware = &client.properties().hardware;
    let units = hardware.num_cpu_cores.unwrap_or(1).max(1);
    let tile = Tile::new(hardware, units as usize, problem.x.m, problem.n);
    let block_rows = problem.x.m.min(BLOCK_ROWS).next_multiple_of(tile.rows);
    let grid = problem.grid(units, tile.columns(), block_rows)?;
    // SAFETY: the kernel guards every access by the sizes of the problem.
    unsafe {
        panels_kernel::launch_unchecked(
            client,
            grid,
            CubeDim::new_1d(units),
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
fn panels_kernel<F: Float>(
    x: &[F],
    words: &Words,
    output: &mut [F],
    sizes: &Sizes,
    #[comptime] direction: Direction,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let size!(V) = tile.lanes;
    // Neighbouring strips share cache lines, so a unit takes neighbours.
    let strip = UNIT_POS_X * CUBE_COUNT_X + CUBE_POS_X;
    let first_column = strip * comptime!(tile.columns() as u32);
    let block_rows = comptime!(tile.block_rows());
    let first_row = CUBE_POS_Y * comptime!(block_rows as u32);
    if first_column < sizes.n {
        let mut panel = Array::<Vector<f32, V>>::new(PANEL_VECTORS);
        let mut sums = Array::<Vector<f32, V>>::new(comptime!(block_rows * tile.vectors));
        let rows = min(sizes.m - first_row, comptime!(block_rows as u32));
        let tiles = rows.div_ceil(comptime!(tile.rows as u32));
        for i in 0..tiles as usize * comptime!(tile.rows * tile.vectors) {
            sums[i] = Vector::new(f32::new(0.0));
        }
        let mut start = 0u32;
        while start < sizes.k {
            let part = Part {
                first_row,
                first_column,
                start,
                steps: min(sizes.k - start, comptime!(tile.kc() as u32)),
            };
            if comptime!(direction == Direction::Transposed) {
                decode_neighbours::<V>(words, &mut panel, &part, sizes, format, tile);
            } else {
                decode_rows::<V>(words, &mut panel, &part, sizes, format, tile);
            }
            for t in 0..tiles {
                multiply_tile::<F, V>(x, &panel, &mut sums, &part, t, sizes, tile);
            }
            start += comptime!(tile.kc() as u32);
        }
        for row in 0..rows {
            let first = (first_row + row) * sizes.n + first_column;
            for c in 0..tile.vectors {
                let sum = sums[row as usize * tile.vectors + c];
                #[unroll]
                for l in 0..tile.lanes {
                    let column = c as u32 * comptime!(tile.lanes as u32) + comptime!(l as u32);
                    if first_column + column < sizes.n {
                        output[(first + column) as usize] = F::cast_from(sum.extract(l));
                    }
                }
            }
        }
    }
}

/// The part of a product that a unit computes from one panel.
#[derive(CubeType, Clone, Copy)]
struct Part {
    /// First row of the output.
    first_row: u32,
    /// First column of the output.
    first_column: u32,
    /// First step along `k`.
    start: u32,
    /// Steps along `k`.
    steps: u32,
}

/// Adds the products of a panel to one tile's sums.
#[cube]
fn multiply_tile<F: Float, V: Size>(
    x: &[F],
    panel: &Array<Vector<f32, V>>,
    sums: &mut Array<Vector<f32, V>>,
    part: &Part,
    t: u32,
    sizes: &Sizes,
    #[comptime] tile: Tile,
) {
    let kept = t as usize * comptime!(tile.rows * tile.vectors);
    let mut tile_sums = Array::<Vector<f32, V>>::new(comptime!(tile.rows * tile.vectors));
    let mut starts = Array::<usize>::new(tile.rows);
    #[unroll]
    for i in 0..tile.rows {
        // Rows beyond the last are computed from the last and never written.
        let row = min(
            part.first_row + t * comptime!(tile.rows as u32) + comptime!(i as u32),
            sizes.m - 1,
        );
        starts[i] = (row * sizes.x_stride + part.start) as usize;
        #[unroll]
        for c in 0..tile.vectors {
            tile_sums[i * tile.vectors + c] = sums[kept + i * tile.vectors + c];
        }
    }
    for k in 0..part.steps as usize {
        let mut w = Array::<Vector<f32, V>>::new(tile.vectors);
        #[unroll]
        for c in 0..tile.vectors {
            w[c] = panel[k * tile.vectors + c];
        }
        #[unroll]
        for i in 0..tile.rows {
            let value = Vector::<f32, V>::new(f32::cast_from(x[starts[i] + k]));
            #[unroll]
            for c in 0..tile.vectors {
                let sum = tile_sums[i * tile.vectors + c];
                tile_sums[i * tile.vectors + c] = fma(w[c], value, sum);
            }
        }
    }
    #[unroll]
    for i in 0..tile.rows {
        #[unroll]
        for c in 0..tile.vectors {
            sums[kept + i * tile.vectors + c] = tile_sums[i * tile.vectors + c];
        }
    }
}

/// Fills the panel for the forward product: a lane is a row of the weight, a step is a column of it.
#[cube]
fn decode_rows<V: Size>(
    words: &Words,
    panel: &mut Array<Vector<f32, V>>,
    part: &Part,
    sizes: &Sizes,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let (codes, alignment) = comptime!((format.codes, format.alignment));
    let per_word = comptime!(codes.per_word());
    for c in 0..tile.vectors {
        let column = part.first_column + c as u32 * comptime!(tile.lanes as u32);
        let mut scales = Vector::<f32, V>::zeroed();
        let mut minima = Vector::<f32, V>::zeroed();
        // Where the lanes' rows begin, in words. Columns beyond the last are computed from the last and never written.
        let mut row_words = Array::<usize>::new(tile.lanes);
        #[unroll]
        for l in 0..tile.lanes {
            let row = min(column + comptime!(l as u32), sizes.n - 1);
            row_words[l] = (row * (sizes.k >> comptime!(codes.word_shift()))) as usize;
        }
        let mut step = 0u32;
        while step < part.steps {
            let k = part.start + step;
            if alignment != Alignment::Elements {
                let mut packed = Vector::<u32, V>::zeroed();
                let word = (k >> comptime!(codes.word_shift())) as usize;
                #[unroll]
                for l in 0..tile.lanes {
                    packed.insert(l, words.packed[row_words[l] + word]);
                }
                let block_begins = match alignment {
                    Alignment::Blocks(size) => {
                        step == 0 || k.is_multiple_of(comptime!(size as u32).runtime())
                    }
                    _ => true.runtime(),
                };
                if block_begins {
                    #[unroll]
                    for l in 0..tile.lanes {
                        let row = min(column + comptime!(l as u32), sizes.n - 1);
                        let element = row * sizes.k + k;
                        scales.insert(l, scale_of(&words.scales, element));
                        if comptime!(codes.has_minima()) {
                            minima.insert(l, minimum_of(&words.scales, element));
                        }
                    }
                }
                #[unroll]
                for j in 0..per_word {
                    let values = permute_values::<V>(packed, comptime!(codes.bits() * j), codes);
                    panel[(step as usize + j) * tile.vectors + c] =
                        scaled_lanes::<V>(values, scales, minima, codes);
                }
            } else {
                #[unroll]
                for j in 0..per_word {
                    let mut packed = Vector::<u32, V>::zeroed();
                    #[unroll]
                    for l in 0..tile.lanes {
                        let row = min(column + comptime!(l as u32), sizes.n - 1);
                        let element = row * sizes.k + min(k + comptime!(j as u32), sizes.k - 1);
                        packed.insert(l, code_of(words, element, codes));
                        scales.insert(l, scale_of(&words.scales, element));
                        if comptime!(codes.has_minima()) {
                            minima.insert(l, minimum_of(&words.scales, element));
                        }
                    }
                    let values = permute_values::<V>(packed, 0usize, codes);
                    panel[(step as usize + j) * tile.vectors + c] =
                        scaled_lanes::<V>(values, scales, minima, codes);
                }
            }
            step += comptime!(per_word as u32);
        }
    }
}

/// Fills the panel for the transposed product: a lane is a column of the weight, a step is a row of it.
#[cube]
fn decode_neighbours<V: Size>(
    words: &Words,
    panel: &mut Array<Vector<f32, V>>,
    part: &Part,
    sizes: &Sizes,
    #[comptime] format: PackedFormat,
    #[comptime] tile: Tile,
) {
    let (codes, alignment) = comptime!((format.codes, format.alignment));
    let (per_word, bits) = comptime!((codes.per_word(), codes.bits()));
    let mut shifts = Vector::<u32, V>::zeroed();
    #[unroll]
    for l in 0..tile.lanes {
        shifts.insert(l, comptime!((bits * (l % per_word)) as u32).runtime());
    }
    for step in 0..part.steps {
        let row = (part.start + step) * sizes.n;
        let mut word = 0u32;
        let mut scale = f32::new(0.0);
        let mut minimum = f32::new(0.0);
        #[unroll]
        for c in 0..tile.vectors {
            let mut packed = Vector::<u32, V>::zeroed();
            let mut scales = Vector::<f32, V>::zeroed();
            let mut minima = Vector::<f32, V>::zeroed();
            #[unroll]
            for l in 0..tile.lanes {
                let offset = comptime!(c * tile.lanes + l);
                // Columns beyond the last are computed from the last and never written.
                let column = min(part.first_column + comptime!(offset as u32), sizes.n - 1);
                if alignment == Alignment::Elements {
                    word = code_of(words, row + column, codes);
                } else if comptime!(offset.is_multiple_of(per_word)) {
                    word = words.packed[((row + column) >> comptime!(codes.word_shift())) as usize];
                }
                if comptime!(alignment.begins_block(offset) || offset == 0) {
                    scale = scale_of(&words.scales, row + column);
                    if comptime!(codes.has_minima()) {
                        minimum = minimum_of(&words.scales, row + column);
                    }
                }
                packed.insert(l, word);
                scales.insert(l, scale);
                if comptime!(codes.has_minima()) {
                    minima.insert(l, minimum);
                }
            }
            if alignment != Alignment::Elements {
                packed >>= shifts
                    + Vector::new(comptime!((bits * (c * tile.lanes % per_word)) as u32).runtime());
            }
            let values = permute_values::<V>(packed, 0usize, codes);
            panel[step as usize * tile.vectors + c] =
                scaled_lanes::<V>(values, scales, minima, codes);
        }
    }
}
