//! Packing a matrix of a codebook, which decodes it.

use super::super::precision::{MAX_KC, WordFormat};
use super::{MatrixB, MicroPanel, Rows, pack_by_columns, pack_by_rows};
use crate::codebook::CodebookRef;
use crate::dequantize::decode_range;
use crate::double_quant::decode_scales;
use crate::simd::Simd;

/// Blocks that a row's part of a micro-panel can touch: the smallest are 32 long, and both ends may be partial.
const MAX_BLOCKS: usize = MAX_KC / 32 + 2;

/// `Wᵀ` of a W of a codebook: its rows are the columns of B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct QuantizedRows<'a>(pub(in crate::matmul) CodebookRef<'a>);

/// A W of a codebook as B.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct QuantizedColumns<'a>(pub(in crate::matmul) CodebookRef<'a>);

impl MatrixB for QuantizedRows<'_> {
    fn n(self) -> usize {
        self.0.out_features()
    }

    #[inline(always)]
    fn pack<S: Simd, P: WordFormat>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        let w = self.0;
        let [n, k] = w.shape();
        let MicroPanel { j, p, kc, .. } = panel;
        let vectors = panel.vectors();
        // Rows begin at a word, and the lanes of a gather reach 15 rows ahead with 32-bit indices.
        if !k.is_multiple_of(8) || !p.is_multiple_of(8) || k > i32::MAX as usize / 16 {
            return pack_by_columns::<P>(n, panel, out, |row, decoded| {
                decode_range(s, w, row * k + p, decoded);
            });
        }
        let size = w.block_size();
        let block_words = size / 8;
        let table = s.table(w.codebook().values());
        let words = kc / 8;
        for v in 0..vectors {
            let rows: [usize; 16] = std::array::from_fn(|lane| (j + 16 * v + lane).min(n - 1));
            let first = rows.map(|row| (row * k + p) / 8);
            let mut scales = [0.0; 16 * MAX_BLOCKS];
            for (first, scales) in first.iter().zip(scales.chunks_exact_mut(MAX_BLOCKS)) {
                let blocks = first / block_words..(first + words - 1) / block_words + 1;
                decode_scales(s, w.scales(), blocks.start, &mut scales[..blocks.len()]);
            }
            let packed = &w.packed()[first[0]..];
            let offsets = first.map(|lane| (lane - first[0]) as u32);
            assert!(offsets[15] as usize + words <= packed.len());
            let offsets = s.load_u(&offsets);
            let phases = s.load_u(&first.map(|first| (first % block_words) as u32));
            let scale_rows = s.load_u(&std::array::from_fn(|lane| (lane * MAX_BLOCKS) as u32));
            // Where rows are whole numbers of blocks, all lanes pass into the next block together.
            let together = k.is_multiple_of(size);
            let mut scale = s.splat(0.0);
            for word in 0..words {
                if word == 0 || !together || (first[0] + word).is_multiple_of(block_words) {
                    let block = s.add_u(phases, s.splat_u(word as u32));
                    let block = s.shift_right(block, block_words.trailing_zeros());
                    // SAFETY: a row's part has at most `MAX_BLOCKS` blocks, its first word lying in block 0.
                    scale = unsafe { s.gather(&scales, s.add_u(scale_rows, block)) };
                }
                // SAFETY: the offsets rise and the last one was checked above to have `words` words behind it.
                let codes = unsafe { s.gather_u(packed, s.add_u(offsets, s.splat_u(word as u32))) };
                let out = &mut out[8 * word / P::PER_WORD * vectors..][..8 / P::PER_WORD * vectors];
                for pair in 0..4 {
                    let [even, odd] = s.lookup_pair(table, codes, pair);
                    let values = [s.mul(even, scale), s.mul(odd, scale)];
                    P::store(s, values, out, pair as usize, v, vectors);
                }
            }
        }
    }
}

impl MatrixB for QuantizedColumns<'_> {
    fn n(self) -> usize {
        self.0.in_features()
    }

    #[inline(always)]
    fn pack<S: Simd, P: WordFormat>(self, s: S, panel: MicroPanel, out: &mut [[u32; 16]]) {
        if self.n().is_multiple_of(panel.nr) {
            pack_by_rows::<S, P, _>(s, WithinBlocks(self.0), panel, out);
        } else {
            pack_by_rows::<S, P, _>(s, AcrossBlocks(self.0), panel, out);
        }
    }
}

/// Rows of a quantized matrix that are whole numbers of micro-panels wide: the part of a row begins at a multiple of 16 or 32
/// elements and is as long, so that it lies in one block.
struct WithinBlocks<'a>(CodebookRef<'a>);

impl<S: Simd> Rows<S> for WithinBlocks<'_> {
    #[inline(always)]
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2] {
        let w = self.0;
        let table = s.table(w.codebook().values());
        let at = p * w.in_features() + panel.j;
        let mut scale = [0.0];
        decode_scales(s, w.scales(), at / w.block_size(), &mut scale);
        let scale = s.splat(scale[0]);
        let (words, _) = w.packed()[at / 8..].as_chunks::<2>();
        let decode = |words| s.mul(s.lookup(table, s.codes(words)), scale);
        [decode(&words[0]), decode(&words[panel.vectors() - 1])]
    }
}

/// Rows of any width.
struct AcrossBlocks<'a>(CodebookRef<'a>);

impl<S: Simd> Rows<S> for AcrossBlocks<'_> {
    #[inline(always)]
    fn part(&self, s: S, p: usize, panel: MicroPanel) -> [S::F; 2] {
        let k = self.0.in_features();
        let len = panel.nr.min(k - panel.j);
        let mut lanes = [[0.0; 16]; 2];
        let decoded = &mut lanes.as_flattened_mut()[..len];
        decode_range(s, self.0, p * k + panel.j, decoded);
        [s.load(&lanes[0]), s.load(&lanes[1])]
    }
}
