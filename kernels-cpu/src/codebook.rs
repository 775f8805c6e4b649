//! A matrix whose codes are those of a codebook, as its kernels read it.

use nf4::{Codebook, Format, MatrixRef, NESTED_MAP};

/// A matrix in one of the formats that this project quantizes to.
#[derive(Clone, Copy)]
pub(crate) struct CodebookRef<'a> {
    shape: [usize; 2],
    codebook: Codebook,
    block_size: usize,
    packed: &'a [u32],
    scales: BlockScales<'a>,
}

/// The scales of blocks.
#[derive(Clone, Copy)]
pub(crate) struct BlockScales<'a> {
    /// f32 bit patterns, or 8-bit codes, four a word.
    pub(crate) words: &'a [u32],
    /// What the 8-bit codes mean.
    pub(crate) double_quant: Option<DoubleQuant<'a>>,
}

/// The second level of scales.
#[derive(Clone, Copy)]
pub(crate) struct DoubleQuant<'a> {
    /// f32 bit patterns, one for [`nf4::NESTED_BLOCK`] blocks each.
    pub(crate) nested: &'a [u32],
    pub(crate) map: &'a [f32; NESTED_MAP],
    pub(crate) offset: f32,
}

impl<'a> CodebookRef<'a> {
    /// Views a matrix; `None` if it is in the blocks of a file.
    pub(crate) fn of(w: MatrixRef<'a>) -> Option<Self> {
        let Format::Quantized(config) = w.layout().format() else {
            return None;
        };
        let (layout, words) = (w.layout(), w.absmax());
        let double_quant = config.double_quant.then(|| {
            let map: &[f32] = bytemuck::cast_slice(&words[layout.map_words()]);
            DoubleQuant {
                nested: &words[layout.nested_words()],
                map: map.try_into().expect("the section has the map's length"),
                offset: f32::from_bits(words[layout.offset_word()]),
            }
        });
        Some(Self {
            shape: layout.shape(),
            codebook: config.codebook,
            block_size: config.block_size,
            packed: w.packed(),
            scales: BlockScales {
                words: &words[layout.scale_words()],
                double_quant,
            },
        })
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub(crate) const fn shape(self) -> [usize; 2] {
        self.shape
    }

    pub(crate) const fn out_features(self) -> usize {
        self.shape[0]
    }

    pub(crate) const fn in_features(self) -> usize {
        self.shape[1]
    }

    pub(crate) const fn codebook(self) -> Codebook {
        self.codebook
    }

    pub(crate) const fn block_size(self) -> usize {
        self.block_size
    }

    /// Returns the codes, eight a word.
    pub(crate) const fn packed(self) -> &'a [u32] {
        self.packed
    }

    pub(crate) const fn scales(self) -> BlockScales<'a> {
        self.scales
    }
}
