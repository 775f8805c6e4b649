//! The forward product for a few rows on a CPU: dot products along the rows of the weight.
//!
//! A unit is a thread. It takes neighbouring rows of the weight one after another, so that the words are read as they lie: in
//! `panels`, whose lanes are rows of the weight, the lines of 16 rows would evict each other where rows are a power of two
//! long. A decoded vector serves all rows of `x`, which stay in the caches.
//!
//! Roofline: as that of `panels`, without what gathering and the panel cost: 16 weights take a dozen instructions and one more
//! a row, some three weights a nanosecond and core; half a byte each, memory bounds that only beyond 1.5 GB/s a core.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;
use nf4::Direction;

use super::problem::{Alignment, Problem, Sizes};
use crate::decode::{Words, permute_values};
use crate::error::KernelError;
use crate::format::CodeFormat;
use crate::launch::{LaunchConfig, lanes};
use crate::scales::{minimum_of, scale_of, scaled_lanes};

/// The most rows of `x`: their sums stay in vector registers.
const MAX_ROWS: usize = 4;
/// The most elements of several rows of `x` that stay in the caches, all of which are read for every row of the weight: 128
/// KiB of f32.
const CACHED_ELEMENTS: usize = 32 * 1024;

/// Returns whether the caches hold `m` rows of `k` elements; one row streams.
pub(super) fn keeps_rows_cached(m: usize, k: usize) -> bool {
    m == 1 || m * k <= CACHED_ELEMENTS
}

/// Returns whether the device has vectors and rows of `x`, `stride` elements apart, begin on one.
pub(super) fn reads_vectors(client: &Client, stride: usize) -> bool {
    let lanes = vector(client);
    lanes >= 4 && stride.is_multiple_of(lanes)
}

/// Returns whether the kernel computes the product: few rows of `x`, forward, of whole vectors, and rows of the weight of whole
/// blocks.
pub(super) fn serves(
    direction: Direction,
    m: usize,
    alignment: Alignment,
    x_is_vectors: bool,
) -> bool {
    direction == Direction::Forward
        && m <= MAX_ROWS
        && x_is_vectors
        && matches!(alignment, Alignment::Blocks(_))
}

/// Returns the elements of a vector.
fn vector(client: &Client) -> usize {
    lanes(client, 16)
}

/// Launches the kernel.
///
/// # Errors
/// [`KernelError::Unavailable`] for a product that it does not [serve](serves).
pub(super) fn launch(problem: &Problem, output: &Handle) -> Result<(), KernelError> {
    let client = &problem.client;
    let (m, x_is_vectors) = (problem.x.m, reads_vectors(client, problem.x.stride));
    if !serves(problem.direction, m, problem.alignment(), x_is_vectors) {
        return Err(KernelError::Unavailable {
            operation: "matmul",
            reason: format!(
                "the kernel of dot products takes up to {MAX_ROWS} rows forward, of whole vectors and blocks, not {} of {}",
                m, problem.k
            ),
        });
    }
    let config = LaunchConfig::new(client, problem.n, 1);
    // SAFETY: the kernel guards every access by the sizes of the problem, whose rows are whole vectors.
    unsafe {
        dots_kernel::launch_unchecked(
            client,
            config.cubes,
            config.cube_dim,
            vector(client),
            problem.x_arg(),
            problem.weight.words_arg(),
            problem.output_arg(output),
            problem.sizes_arg(),
            config.per_unit,
            problem.weight.codes(),
            problem.x.m.next_power_of_two(),
            problem.weight.block_size(),
            problem.x.dtype,
        );
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn dots_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    words: &Words,
    output: &mut [F],
    sizes: &Sizes,
    per_unit: u32,
    #[comptime] codes: CodeFormat,
    #[comptime] rows: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let (per_word, bits) = comptime!((codes.per_word(), codes.bits()));
    let mut shifts = Vector::<u32, N>::zeroed();
    #[unroll]
    for l in 0..size {
        shifts.insert(l, comptime!((bits * (l % per_word)) as u32).runtime());
    }
    // Rows beyond the last are computed from the last and never written.
    let mut starts = Array::<usize>::new(rows);
    #[unroll]
    for i in 0..rows {
        let row = min(comptime!(i as u32).runtime(), sizes.m - 1);
        starts[i] = (row * sizes.x_stride) as usize / size;
    }
    let first_feature = ABSOLUTE_POS as u32 * per_unit;
    let end_feature = min(first_feature + per_unit, sizes.n);
    for feature in first_feature..end_feature {
        let mut sums = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for i in 0..rows {
            sums[i] = Vector::new(f32::new(0.0));
        }
        let mut k = 0u32;
        while k < sizes.k {
            let first = feature * sizes.k + k;
            let scale = Vector::<f32, N>::new(scale_of(&words.scales, first));
            let minimum = Vector::<f32, N>::new(minimum_of(&words.scales, first));
            #[unroll]
            for part in 0..comptime!(block / size) {
                let mut packed = Vector::<u32, N>::zeroed();
                let mut word = 0u32;
                #[unroll]
                for l in 0..size {
                    let element = comptime!(part * size + l);
                    if comptime!(l == 0 || element.is_multiple_of(per_word)) {
                        let element = first + comptime!(element as u32);
                        word = words.packed[(element >> comptime!(codes.word_shift())) as usize];
                    }
                    packed.insert(l, word);
                }
                packed >>= shifts
                    + Vector::new(comptime!((bits * (part * size % per_word)) as u32).runtime());
                let values = permute_values::<N>(packed, 0usize, codes);
                let w = scaled_lanes::<N>(values, scale, minimum, codes);
                let vector = k as usize / size + part;
                #[unroll]
                for i in 0..rows {
                    let values = Vector::<f32, N>::cast_from(x[starts[i] + vector]);
                    sums[i] = fma(w, values, sums[i]);
                }
            }
            k += comptime!(block as u32);
        }
        #[unroll]
        for i in 0..rows {
            let mut total = f32::new(0.0);
            #[unroll]
            for l in 0..size {
                total += sums[i].extract(l);
            }
            let row = comptime!(i as u32);
            if row < sizes.m {
                output[(row * sizes.n + feature) as usize] = F::cast_from(total);
            }
        }
    }
}
