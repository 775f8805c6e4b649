//! The register tile: some rows of packed `x` times a decoded panel.

use crate::simd::Simd;

/// An output matrix that several threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct Output {
    start: *mut f32,
    len: usize,
    stride: usize,
}

// SAFETY: every access goes through `vector` and `element`, whose callers keep the threads apart.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// A view of `y`, rows of which are `stride` apart.
    pub(super) fn new(y: &mut [f32], stride: usize) -> Self {
        Self {
            start: y.as_mut_ptr(),
            len: y.len(),
            stride,
        }
    }

    /// Elements `column..column + 16` of a row.
    ///
    /// # Safety
    /// `y` is still borrowed, and no other thread touches these elements meanwhile.
    #[inline(always)]
    unsafe fn vector<'a>(self, row: usize, column: usize) -> &'a mut [f32; 16] {
        let at = row * self.stride + column;
        debug_assert!(column + 16 <= self.stride && at + 16 <= self.len);
        // SAFETY: the caller asks for elements inside the row (checked above in debug builds) and owns them.
        unsafe { &mut *self.start.add(at).cast() }
    }

    /// Up to 16 elements of a row from `column` on, as many as the row has.
    ///
    /// # Safety
    /// As for [`Output::vector`].
    unsafe fn remainder<'a>(self, row: usize, column: usize) -> &'a mut [f32] {
        let at = row * self.stride + column;
        let len = self.stride.saturating_sub(column).min(16);
        debug_assert!(len == 0 || at + len <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Multiplies `rows` (at most [`Simd::TILE_ROWS`]) packed rows by one panel and puts the product at `row`, `column`
/// of `y`, or adds it there.
///
/// Each element is summed over the panel's depth from 0 on, whatever the number of rows.
///
/// # Safety
/// `x` holds `depth * TILE_ROWS` elements and `panel` `depth * 16 * TILE_VECTORS`; the rows exist in `y`, and no other
/// thread touches these rows of the panel's columns meanwhile.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply<S: Simd>(
    s: S,
    x: &[f32],
    panel: &[f32],
    rows: usize,
    y: Output,
    row: usize,
    column: usize,
    accumulate: bool,
) {
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match (rows, S::TILE_VECTORS) {
                $(
                    // SAFETY: passed on from the caller; the tile is no larger than the packed one.
                    ($rows, 1) if $rows <= S::TILE_ROWS => unsafe {
                        tile::<S, $rows, 1>(s, x, panel, y, row, column, accumulate)
                    },
                    // SAFETY: as above.
                    ($rows, 2) if $rows <= S::TILE_ROWS => unsafe {
                        tile::<S, $rows, 2>(s, x, panel, y, row, column, accumulate)
                    },
                )*
                _ => unreachable!("a tile has at most {} rows", S::TILE_ROWS),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    x: &[f32],
    panel: &[f32],
    y: Output,
    row: usize,
    column: usize,
    accumulate: bool,
) {
    let (panel, _) = panel.as_chunks::<16>();
    let depth = panel.len() / VECTORS;
    debug_assert!(x.len() >= depth * S::TILE_ROWS);
    let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
    for i in 0..depth {
        let mut weights = [s.splat(0.0); VECTORS];
        for (v, weights) in weights.iter_mut().enumerate() {
            // SAFETY: `i < depth`, and the lengths are as the caller promised.
            *weights = s.load(unsafe { panel.get_unchecked(i * VECTORS + v) });
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, and `r < ROWS <= TILE_ROWS`.
            let x = s.splat(unsafe { *x.get_unchecked(i * S::TILE_ROWS + r) });
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = s.mul_add(x, weight, *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            let column = column + 16 * v;
            if column + 16 <= y.stride {
                // SAFETY: the elements exist, and the caller keeps other threads away.
                let to = unsafe { y.vector(row + r, column) };
                let sum = if accumulate {
                    s.add(s.load(to), sum)
                } else {
                    sum
                };
                s.store(sum, to);
            } else if column < y.stride {
                let mut lanes = [0.0; 16];
                s.store(sum, &mut lanes);
                // SAFETY: as above.
                let to = unsafe { y.remainder(row + r, column) };
                for (to, lane) in to.iter_mut().zip(lanes) {
                    *to = if accumulate { *to + lane } else { lane };
                }
            }
        }
    }
}
