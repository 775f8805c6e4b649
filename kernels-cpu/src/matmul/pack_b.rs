//! The packed layout of a block of B: micro-panels of `nr` columns, `[words along k][nr]` each.
//!
//! - `quantized`: decoding a matrix of a codebook, either way round
//! - `blocks`: decoding the blocks of a file
//! - `dense`: the same for a matrix of numbers

mod blocks;
mod dense;
mod quantized;

pub(super) use blocks::Blocks;
pub(super) use dense::{DenseColumns, DenseRows};
pub(super) use quantized::{QuantizedColumns, QuantizedRows};

use super::precision::{MAX_KC, WordFormat};
use crate::simd::Simd;

/// The right-hand matrix of a product, `[k, n]`, of which micro-panels are packed.
pub(super) trait MatrixB: Copy + Send + Sync {
    /// Returns the number of columns.
    fn n(self) -> usize;

    /// Packs a micro-panel. An odd last value along k is followed by zeros; columns beyond the last hold any values.
    fn pack<S: Simd, P: WordFormat>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]);
}

/// The place of a micro-panel in B: columns `j..j + nr`, rows `p..p + kc`.
#[derive(Clone, Copy)]
pub(super) struct MicroPanel {
    pub(super) j: usize,
    /// 16 or 32.
    pub(super) nr: usize,
    pub(super) p: usize,
    pub(super) kc: usize,
}

impl MicroPanel {
    /// Returns the vectors that the micro-panel is wide.
    pub(super) fn vectors(self) -> usize {
        self.nr / 16
    }
}

/// Stores one column of a micro-panel, and zeros to the end of its last word.
#[inline(always)]
fn set_column<P: WordFormat>(values: &[f32], out: &mut [[u32; 16]], j: usize, vectors: usize) {
    for (p, value) in values.iter().enumerate() {
        P::set(*value, out, p, j, vectors);
    }
    for p in values.len()..values.len().next_multiple_of(P::PER_WORD) {
        P::set(0.0, out, p, j, vectors);
    }
}

/// Packs a micro-panel column by column, for a B of `n` columns. `decode` writes a column from its row `panel.p` on.
#[inline(always)]
fn pack_by_columns<P: WordFormat>(
    n: usize,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
    decode: impl Fn(usize, &mut [f32]),
) {
    let mut buffer = [0.0; MAX_KC];
    for j in 0..panel.nr {
        let decoded = &mut buffer[..panel.kc];
        decode((panel.j + j).min(n - 1), decoded);
        set_column::<P>(decoded, out, j, panel.vectors());
    }
}

/// A matrix whose rows are those of B.
trait Rows<S: Simd> {
    /// Returns the micro-panel's part of row `p`; if it is one vector wide, the second does not matter.
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2];
}

/// Packs a micro-panel row by row, two at a time.
#[inline(always)]
fn pack_by_rows<S: Simd, P: WordFormat, R: Rows<S>>(
    s: S,
    rows: R,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
) {
    let MicroPanel { p, kc, .. } = panel;
    let vectors = panel.vectors();
    for pair in 0..kc / 2 {
        let even = rows.part(s, p + 2 * pair, panel);
        let odd = rows.part(s, p + 2 * pair + 1, panel);
        for v in 0..vectors {
            P::store(s, [even[v], odd[v]], out, pair, v, vectors);
        }
    }
    if kc % 2 == 1 {
        let last = rows.part(s, p + kc - 1, panel);
        let mut filled = [[0; 16]; 4];
        for (v, last) in last.into_iter().enumerate().take(vectors) {
            P::store(s, [last, s.splat(0.0)], &mut filled, 0, v, vectors);
        }
        let out = &mut out[kc / 2 * 2 / P::PER_WORD * vectors..][..vectors];
        out.copy_from_slice(&filled[..vectors]);
    }
}
