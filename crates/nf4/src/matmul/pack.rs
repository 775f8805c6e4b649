//! The rows of `x` rearranged so that the register tile reads them one after another.

use rayon::prelude::*;

/// Columns `start..start + depth` of `x: [m, inner]` as `[tile][depth][rows]`, the last tile filled with zeros.
///
/// Without it the tile would read as many rows as it has, each a stride apart that for usual sizes is a multiple of
/// the cache's, so that they would evict one another.
pub(super) fn pack(
    x: &[f32],
    inner: usize,
    start: usize,
    depth: usize,
    rows: usize,
    out: &mut Vec<f32>,
) {
    let tiles = x.len().div_ceil(inner * rows);
    out.resize(tiles * depth * rows, 0.0);
    out.par_chunks_mut(depth * rows)
        .zip(x.par_chunks(inner * rows))
        .with_min_len(4)
        .for_each(|(out, x)| {
            for (i, row) in x.chunks(inner).enumerate() {
                let row = &row[start..start + depth];
                out[i..]
                    .iter_mut()
                    .step_by(rows)
                    .zip(row)
                    .for_each(|(out, x)| *out = *x);
            }
            for i in x.len() / inner..rows {
                out[i..].iter_mut().step_by(rows).for_each(|out| *out = 0.0);
            }
        });
}
