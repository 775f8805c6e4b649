//! Packing a quantized matrix, which decodes it.

use nf4::MatrixRef;

use super::super::precision::{MAX_KC, Precision};
use super::{MatrixB, MicroPanel, Rows, pack_by_rows, set_column};
use crate::codes::{Codes, scaled, with_codes};
use crate::dequantize::decode_range;
use crate::scales;
use crate::simd::Simd;

/// Returns the blocks that a row's part of a micro-panel can touch: both ends may be partial.
const fn most_blocks(smallest: usize) -> usize {
    MAX_KC / smallest + 2
}

/// `Wᵀ` of a quantized W: its rows are the columns of B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct QuantizedRows<'a>(pub(in crate::matmul) MatrixRef<'a>);

/// A quantized W as B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct QuantizedColumns<'a>(pub(in crate::matmul) MatrixRef<'a>);

impl MatrixB for QuantizedRows<'_> {
    fn n(self) -> usize {
        self.0.layout().out_features()
    }

    #[inline(always)]
    fn pack<S: Simd, P: Precision>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        let w = self.0;
        let k = w.layout().in_features();
        // The lanes of a gather reach 15 rows ahead with 32-bit indices.
        if !k.is_multiple_of(8) || !panel.p.is_multiple_of(8) || k > i32::MAX as usize / 16 {
            return pack_column_by_column::<S, P>(s, w, panel, out);
        }
        with_codes!(s, w.layout().block_format(), |codes, MINIMA, SMALLEST| {
            const BLOCKS: usize = most_blocks(SMALLEST);
            pack_columns::<S, P, _, MINIMA, BLOCKS>(s, codes, w, panel, out);
        });
    }
}

/// Packs a micro-panel of rows that begin at words, 16 rows at a time. A row's part touches at most `BLOCKS` blocks.
#[inline(always)]
fn pack_columns<S: Simd, P: Precision, C: Codes<S>, const MINIMA: bool, const BLOCKS: usize>(
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
    for v in 0..vectors {
        let rows: [usize; 16] = std::array::from_fn(|lane| (j + 16 * v + lane).min(n - 1));
        let first = rows.map(|row| (row * k + p) / C::PER_WORD);
        let mut scales = [[0.0; BLOCKS]; 16];
        let mut minima = [[0.0; BLOCKS]; 16];
        for (lane, first) in first.iter().enumerate() {
            let blocks = first / block_words..(first + words - 1) / block_words + 1;
            let scales = &mut scales[lane][..blocks.len()];
            let minima = &mut minima[lane][..blocks.len()];
            scales::decode::<S, MINIMA>(s, w, blocks.start, scales, minima);
        }
        let packed = &w.packed()[first[0]..];
        let offsets = first.map(|lane| (lane - first[0]) as u32);
        assert!(offsets[15] as usize + words <= packed.len());
        let offsets = s.load_u(&offsets);
        let phases = s.load_u(&first.map(|first| (first % block_words) as u32));
        let scale_rows = s.load_u(&std::array::from_fn(|lane| (lane * BLOCKS) as u32));
        // Where rows are whole numbers of blocks, all lanes pass into the next block together.
        let together = k.is_multiple_of(size);
        let mut scale = [s.splat(0.0); 2];
        for word in 0..words {
            if word == 0 || !together || (first[0] + word).is_multiple_of(block_words) {
                let block = s.add_u(phases, s.splat_u(word as u32));
                let block = s.shift_right(block, block_words.trailing_zeros());
                let at = s.add_u(scale_rows, block);
                // SAFETY: a row's part has at most `BLOCKS` blocks, its first word lying in block 0.
                scale[0] = unsafe { s.gather(scales.as_flattened(), at) };
                if MINIMA {
                    // SAFETY: as above.
                    scale[1] = unsafe { s.gather(minima.as_flattened(), at) };
                }
            }
            // SAFETY: the offsets rise and the last one was checked above to have `words` words behind it.
            let lanes = unsafe { s.gather_u(packed, s.add_u(offsets, s.splat_u(word as u32))) };
            let stored = C::PER_WORD / P::PER_WORD * vectors;
            let out = &mut out[word * stored..][..stored];
            for pair in 0..C::PER_WORD / 2 {
                let [even, odd] = codes.pair(s, lanes, pair as u32);
                let even = scaled::<S, MINIMA>(s, even, scale);
                let odd = scaled::<S, MINIMA>(s, odd, scale);
                P::store(s, [even, odd], out, pair, v, vectors);
            }
        }
    }
}

/// Packs a micro-panel of rows that do not begin at a word.
#[inline(always)]
fn pack_column_by_column<S: Simd, P: Precision>(
    s: S,
    w: MatrixRef<'_>,
    panel: MicroPanel,
    out: &mut [[u32; 16]],
) {
    let [n, k] = w.layout().shape();
    let mut buffer = [0.0; MAX_KC];
    for j in 0..panel.nr {
        let decoded = &mut buffer[..panel.kc];
        let row = (panel.j + j).min(n - 1);
        decode_range(s, w, row * k + panel.p, decoded);
        set_column::<P>(decoded, out, j, panel.vectors());
    }
}

impl MatrixB for QuantizedColumns<'_> {
    fn n(self) -> usize {
        self.0.layout().in_features()
    }

    #[inline(always)]
    fn pack<S: Simd, P: Precision>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        if self.n().is_multiple_of(panel.nr) {
            let w = self.0;
            with_codes!(s, w.layout().block_format(), |codes, MINIMA, _SMALLEST| {
                let rows = WithinBlocks::<_, MINIMA> { w, codes };
                pack_by_rows::<S, P, _>(s, rows, panel, out);
            });
        } else {
            pack_by_rows::<S, P, _>(s, AcrossBlocks(self.0), panel, out);
        }
    }
}

/// Rows of a quantized matrix that are whole numbers of micro-panels wide: the part of a row begins at a multiple of 16 or 32
/// elements and is as long, so that each vector of it lies in one block.
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
        let [scale, minimum] = scales::of_block::<S, MINIMA>(s, self.w, block);
        [s.splat(scale), s.splat(minimum)]
    }
}

/// Rows of any width.
struct AcrossBlocks<'a>(MatrixRef<'a>);

impl<S: Simd> Rows<S> for AcrossBlocks<'_> {
    #[inline(always)]
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2] {
        let k = self.0.layout().in_features();
        let len = panel.nr.min(k - panel.j);
        let mut lanes = [[0.0; 16]; 2];
        let decoded = &mut lanes.as_flattened_mut()[..len];
        decode_range(s, self.0, p * k + panel.j, decoded);
        [s.load(&lanes[0]), s.load(&lanes[1])]
    }
}
