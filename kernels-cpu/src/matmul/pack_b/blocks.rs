//! Packing the blocks of a file, which decodes them.
//!
//! The kernels are not inlined into those of the product, which are compiled once for all formats.

use nf4::{Direction, MatrixRef};

use super::super::precision::{MAX_KC, WordFormat};
use super::{MatrixB, MicroPanel, Rows, pack_by_columns, pack_by_rows};
use crate::blocks::codes::{Codes, scaled, with_codes};
use crate::blocks::{decode_range, scales};
use crate::cpu::Cpu;
use crate::simd::{Isa, Simd, kernel};

/// Blocks that a row's part of a micro-panel can touch: the smallest are 16 long, and both ends may be partial.
const MAX_BLOCKS: usize = MAX_KC / 16 + 2;

/// A W in the blocks of a file as B, for a product in either direction.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Blocks<'a> {
    isa: Isa,
    w: MatrixRef<'a>,
    direction: Direction,
}

impl<'a> Blocks<'a> {
    /// Returns W as B: forward, its rows are the columns of B.
    pub(in crate::matmul) const fn new(cpu: Cpu, w: MatrixRef<'a>, direction: Direction) -> Self {
        let isa = cpu.isa;
        Self { isa, w, direction }
    }
}

impl MatrixB for Blocks<'_> {
    fn n(self) -> usize {
        let [_, n] = self.direction.widths(self.w.layout().shape());
        n
    }

    #[inline(always)]
    fn pack<S: Simd, P: WordFormat>(self, _: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        match self.direction {
            Direction::Forward => pack_forward::<P>(self.isa, self.w, panel, out),
            Direction::Transposed => pack_transposed::<P>(self.isa, self.w, panel, out),
        }
    }
}

kernel! {
    fn pack_forward<P: WordFormat>(w: MatrixRef<'_>, panel: MicroPanel, out: &mut [[u32; 16]])
        = pack_rows_of_w::<_, P>;

    fn pack_transposed<P: WordFormat>(w: MatrixRef<'_>, panel: MicroPanel, out: &mut [[u32; 16]])
        = pack_columns_of_w::<_, P>;
}

#[inline(always)]
fn pack_rows_of_w<S: Simd, P: WordFormat>(
    s: S,
    w: MatrixRef<'_>,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
) {
    let [n, k] = w.layout().shape();
    // The lanes of a gather reach 15 rows ahead with 32-bit indices.
    if !panel.p.is_multiple_of(8) || k > i32::MAX as usize / 16 {
        return pack_by_columns::<P>(n, panel, out, |row, decoded| {
            decode_range(s, w, row * k + panel.p, decoded);
        });
    }
    with_codes!(s, w.layout().block_format(), |codes, MINIMA| {
        pack_lanes::<S, P, _, MINIMA>(s, codes, w, panel, out);
    });
}

/// Packs 16 rows of W at a time, one a lane. Rows are whole blocks: all lanes pass into the next one together.
#[inline(always)]
fn pack_lanes<S: Simd, P: WordFormat, C: Codes<S>, const MINIMA: bool>(
    s: S,
    codes: C,
    w: MatrixRef<'_>,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
) {
    let [n, k] = w.layout().shape();
    let MicroPanel { j, p, kc, .. } = panel;
    let vectors = panel.vectors();
    let size = w.layout().block_format().block_size;
    let block_words = size / C::PER_WORD;
    let words = kc / C::PER_WORD;
    let before = p % size / C::PER_WORD;
    let blocks = (before + words).div_ceil(block_words);
    let stored = C::PER_WORD / P::PER_WORD * vectors;
    for v in 0..vectors {
        let rows: [usize; 16] = std::array::from_fn(|lane| (j + 16 * v + lane).min(n - 1));
        let mut scales = [[0.0; MAX_BLOCKS]; 16];
        let mut minima = [[0.0; MAX_BLOCKS]; 16];
        for (lane, row) in rows.into_iter().enumerate() {
            let scales = &mut scales[lane][..blocks];
            let minima = &mut minima[lane][..blocks];
            scales::decode::<MINIMA>(w, (row * k + p) / size, scales, minima);
        }
        let first = rows.map(|row| (row * k + p) / C::PER_WORD);
        let packed = &w.packed()[first[0]..];
        let offsets = first.map(|lane| (lane - first[0]) as u32);
        assert!(offsets[15] as usize + words <= packed.len());
        let offsets = s.load_u(&offsets);
        let mut word = 0;
        for block in 0..blocks {
            let scale = [
                of_lanes(s, &scales, block),
                if MINIMA {
                    of_lanes(s, &minima, block)
                } else {
                    s.splat(0.0)
                },
            ];
            let end = ((block + 1) * block_words - before).min(words);
            for word in word..end {
                // SAFETY: the offsets rise and the last one was checked above to have `words` words behind it.
                let lanes = unsafe { s.gather_u(packed, s.add_u(offsets, s.splat_u(word as u32))) };
                let out = &mut out[word * stored..][..stored];
                for pair in 0..C::PER_WORD / 2 {
                    let [even, odd] = codes.pair(s, lanes, pair as u32);
                    let even = scaled::<S, MINIMA>(s, even, scale);
                    let odd = scaled::<S, MINIMA>(s, odd, scale);
                    P::store(s, [even, odd], out, pair, v, vectors);
                }
            }
            word = end;
        }
    }
}

/// Returns the value of a block in every lane.
#[inline(always)]
fn of_lanes<S: Simd>(s: S, values: &[[f32; MAX_BLOCKS]; 16], block: usize) -> S::F {
    s.load(&std::array::from_fn(|lane| values[lane][block]))
}

#[inline(always)]
fn pack_columns_of_w<S: Simd, P: WordFormat>(
    s: S,
    w: MatrixRef<'_>,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
) {
    with_codes!(s, w.layout().block_format(), |codes, MINIMA| {
        let rows = WithinBlocks::<_, MINIMA> { w, codes };
        pack_by_rows::<S, P, _>(s, rows, panel, out);
    });
}

/// Rows of W, which are whole numbers of 32 elements and so of micro-panels: the part of a row begins at a multiple of 16 or 32
/// and is as long, so that each vector of it lies in one block.
struct WithinBlocks<'a, C, const MINIMA: bool> {
    w: MatrixRef<'a>,
    codes: C,
}

impl<S: Simd, C: Codes<S>, const MINIMA: bool> Rows<S> for WithinBlocks<'_, C, MINIMA> {
    #[inline(always)]
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2] {
        let layout = self.w.layout();
        let size = layout.block_format().block_size;
        let at = p * layout.in_features() + panel.j;
        let block = at / size;
        let first = self.scale(s, block);
        // Only blocks of 16, which have codes of 8 bits, are narrower than two vectors.
        let last = if C::PER_WORD == 4 && panel.vectors() == 2 && size == 16 {
            self.scale(s, block + 1)
        } else {
            first
        };
        let words = &self.w.packed()[at / C::PER_WORD..];
        let second = &words[16 / C::PER_WORD * (panel.vectors() - 1)..];
        [
            scaled::<S, MINIMA>(s, self.codes.consecutive(s, words), first),
            scaled::<S, MINIMA>(s, self.codes.consecutive(s, second), last),
        ]
    }
}

impl<C, const MINIMA: bool> WithinBlocks<'_, C, MINIMA> {
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, block: usize) -> [S::F; 2] {
        let [scale, minimum] = scales::of_block::<MINIMA>(self.w, block);
        [s.splat(scale), s.splat(minimum)]
    }
}
