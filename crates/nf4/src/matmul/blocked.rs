//! The product for many rows.
//!
//! The sum is cut into parts of at most [`MAX_DEPTH`] steps. For each, `x` is packed once; then every task decodes
//! some neighbouring panels of `W` into scratch that stays in the L2 cache and multiplies all rows of `x` by them. A
//! decoded weight serves `m` rows, so that from some 30 rows on the arithmetic bounds the time.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Direction;
use super::pack::pack;
use super::panel::{MAX_DEPTH, decode_columns, decode_rows};
use super::tile::{Output, multiply};
use crate::matrix::MatrixRef;
use crate::simd::{Isa, Level, Portable, Simd, kernel};

/// Most elements of the scratch of a task: 256 KiB, half of the L2 cache of small machines.
const MAX_SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Scratch for decoded panels, kept because its pages are expensive to come by.
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Packed rows, taken away while in use: the thread may begin another product while it waits for this one.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn matmul(
    isa: Isa,
    w: MatrixRef<'_>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    direction: Direction,
) {
    let (inner, outer) = (x.len() / m, y.len() / m);
    let (rows, width) = tile_size(isa);
    let depth = inner
        .div_ceil(inner.div_ceil(MAX_DEPTH))
        .next_multiple_of(8);
    let panels = outer.div_ceil(width);
    // Several panels a task read `x` fewer times; as many tasks for each thread keep all of them busy to the end.
    let most = (MAX_SCRATCH / (depth * width)).max(1);
    let threads = rayon::current_num_threads();
    let tasks = (threads * panels.div_ceil(threads * most)).min(panels);
    let y = Output::new(y, outer);
    let mut packed = PACKED.take();
    for start in (0..inner).step_by(depth) {
        let depth = depth.min(inner - start);
        pack(x, inner, start, depth, rows, &mut packed);
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let panels = task * panels / tasks..(task + 1) * panels / tasks;
            let part = Part {
                w,
                x: &packed,
                m,
                start,
                depth,
                first: panels.start,
                direction,
            };
            PANELS.with_borrow_mut(|scratch| {
                scratch.resize(scratch.len().max(panels.len() * depth * width), 0.0);
                multiply_part(isa, part, &mut scratch[..panels.len() * depth * width], y);
            });
        });
    }
    PACKED.set(packed);
}

/// Rows and columns of the register tile.
fn tile_size(isa: Isa) -> (usize, usize) {
    fn of<S: Simd>() -> (usize, usize) {
        (S::TILE_ROWS, 16 * S::TILE_VECTORS)
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => of::<crate::simd::Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => of::<crate::simd::Avx2>(),
        Level::Portable => of::<Portable>(),
    }
}

/// What one task multiplies.
struct Part<'a> {
    w: MatrixRef<'a>,
    /// All `m` rows, packed.
    x: &'a [f32],
    m: usize,
    /// Which part of the sum.
    start: usize,
    depth: usize,
    /// The first panel; how many there are is told by the scratch.
    first: usize,
    direction: Direction,
}

kernel! {
    fn multiply_part(part: Part<'_>, scratch: &mut [f32], y: Output) = multiply_panels;
}

#[inline(always)]
fn multiply_panels<S: Simd>(s: S, part: Part<'_>, scratch: &mut [f32], y: Output) {
    let Part {
        w,
        x,
        m,
        start,
        depth,
        first,
        direction,
    } = part;
    let width = 16 * S::TILE_VECTORS;
    for (panel, out) in (first..).zip(scratch.chunks_exact_mut(depth * width)) {
        match direction {
            Direction::Forward => decode_rows(s, w, panel * width, start, depth, out),
            Direction::Transposed => decode_columns(s, w, panel * width, start, depth, out),
        }
    }
    for (i, x) in x.chunks_exact(depth * S::TILE_ROWS).enumerate() {
        let row = i * S::TILE_ROWS;
        for (panel, weights) in (first..).zip(scratch.chunks_exact(depth * width)) {
            let rows = S::TILE_ROWS.min(m - row);
            // SAFETY: the chunks have the lengths asked for, the rows are below `m`, and the panels of
            // different tasks are different columns of `y`.
            unsafe { multiply(s, x, weights, rows, y, row, panel * width, start > 0) };
        }
    }
}
