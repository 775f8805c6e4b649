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

use super::{Alignment, Problem};
use crate::decode::{Words, permute_values, scale_of};
use crate::format::CodeTable;
use crate::launch::{Spread, lanes};

/// The most rows of `x`.
const MAX_ROWS: usize = 4;
/// The most elements of several rows of `x`, all of which are read for every row of the weight: 128 KiB of f32.
const MAX_ELEMENTS: usize = 32 * 1024;

/// Elements of a vector, if this kernel is the better one for the problem: few rows of `x`, of whole vectors, and rows of the
/// weight of whole blocks.
pub(super) fn vector(client: &Client, problem: &Problem<'_>) -> Option<usize> {
    let lanes = lanes(client, 16);
    let &Problem { inner, ref x, .. } = problem;
    let few = x.m == 1 || x.m <= MAX_ROWS && x.m * inner <= MAX_ELEMENTS;
    let whole_blocks = matches!(problem.alignment(), Alignment::Blocks(_));
    let whole_vectors = lanes >= 4 && x.row_stride.is_multiple_of(lanes);
    (few && whole_blocks && whole_vectors).then_some(lanes)
}

/// Launches the kernel on vectors of [`vector`] elements.
pub(super) fn launch(client: &Client, problem: &Problem<'_>, vector: usize) {
    let spread = Spread::new(client, problem.outer, 1);
    // SAFETY: the kernel guards every access by the sizes of the problem, whose rows are whole vectors.
    unsafe {
        dots_kernel::launch_unchecked(
            client,
            spread.cubes,
            spread.cube_dim,
            vector,
            problem.x_arg(),
            problem.weight.words_arg(),
            problem.output_arg(),
            problem.x.m as u32,
            problem.inner as u32,
            problem.outer as u32,
            problem.x.row_stride as u32,
            spread.per_unit,
            problem.weight.format.table,
            problem.x.m.next_power_of_two(),
            problem.weight.format.block_size,
            problem.x.dtype,
        );
    }
}

#[cube(launch_unchecked)]
fn dots_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    words: &Words,
    output: &mut [F],
    m: u32,
    inner: u32,
    outer: u32,
    x_stride: u32,
    per_unit: u32,
    #[comptime] codes: CodeTable,
    #[comptime] rows: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value();
    let mut shifts = Vector::<u32, N>::zeroed();
    #[unroll]
    for l in 0..size {
        shifts.insert(l, comptime!(4 * (l % 8) as u32).runtime());
    }
    // Rows beyond the last are computed from the last and never written.
    let mut starts = Array::<usize>::new(rows);
    #[unroll]
    for i in 0..rows {
        let row = min(comptime!(i as u32).runtime(), m - 1);
        starts[i] = (row * x_stride) as usize / size;
    }
    let first_feature = ABSOLUTE_POS as u32 * per_unit;
    let end_feature = min(first_feature + per_unit, outer);
    for feature in first_feature..end_feature {
        let mut sums = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for i in 0..rows {
            sums[i] = Vector::new(f32::new(0.0));
        }
        let mut k = 0u32;
        while k < inner {
            let first = feature * inner + k;
            let scale = Vector::<f32, N>::new(scale_of(&words.scales, first));
            #[unroll]
            for part in 0..comptime!(block / size) {
                let mut packed = Vector::<u32, N>::zeroed();
                let mut word = 0u32;
                #[unroll]
                for l in 0..size {
                    let element = comptime!(part * size + l);
                    if comptime!(l == 0 || element.is_multiple_of(8)) {
                        word = words.packed[((first + comptime!(element as u32)) >> 3) as usize];
                    }
                    packed.insert(l, word);
                }
                packed >>= shifts + Vector::new(comptime!(4 * (part * size % 8) as u32).runtime());
                let w = permute_values::<N>(packed, 0usize, codes) * scale;
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
            if row < m {
                output[(row * outer + feature) as usize] = F::cast_from(total);
            }
        }
    }
}
