//! The register tile: some rows of packed `x` times a decoded panel.

use super::precision::Precision;
use crate::simd::Simd;

/// Multiplies a tile of packed rows by one panel, and puts the product into `sums: [rows][vectors][16]`, or adds it.
///
/// Each element is summed over the panel's depth from 0 on. `x` is `[words][rows]` and `panel` is
/// `[words][vectors][16]`; there are at most [`Simd::TILE_ROWS`] rows and one or two vectors.
#[inline(always)]
pub(super) fn multiply<S: Simd, P: Precision>(
    s: S,
    x: &[u32],
    panel: &[[u32; 16]],
    sums: &mut [[u32; 16]],
    [rows, vectors]: [usize; 2],
    accumulate: bool,
) {
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match (rows, vectors) {
                $(
                    ($rows, 1) if $rows <= S::TILE_ROWS => tile::<S, P, $rows, 1>(s, x, panel, sums, accumulate),
                    ($rows, 2) if $rows <= S::TILE_ROWS && S::TILE_VECTORS == 2 => {
                        tile::<S, P, $rows, 2>(s, x, panel, sums, accumulate)
                    }
                )*
                _ => unreachable!("a tile has at most {} rows of {} vectors", S::TILE_ROWS, S::TILE_VECTORS),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

#[inline(always)]
fn tile<S: Simd, P: Precision, const ROWS: usize, const VECTORS: usize>(
    s: S,
    x: &[u32],
    panel: &[[u32; 16]],
    sums: &mut [[u32; 16]],
    accumulate: bool,
) {
    let (x, _) = x.as_chunks::<ROWS>();
    let (panel, _) = panel.as_chunks::<VECTORS>();
    let mut totals = [[s.splat(0.0); VECTORS]; ROWS];
    for (x, panel) in x.iter().zip(panel) {
        P::add_products(s, x, panel, &mut totals);
    }
    let (sums, _) = sums.as_chunks_mut::<VECTORS>();
    for (sums, totals) in sums.iter_mut().zip(totals) {
        for (sum, total) in sums.iter_mut().zip(totals) {
            let total = if accumulate {
                s.add(s.float(s.load_u(sum)), total)
            } else {
                total
            };
            s.store_u(s.bits(total), sum);
        }
    }
}
