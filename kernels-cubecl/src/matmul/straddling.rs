//! Runs of a row of the weight that begin within a word: as many elements as a word has lie in two words and, a block being
//! longer than a word, in two blocks.

use cubecl::prelude::*;

use super::loader::PackedWeight;
use crate::scales::{minimum_of, scale_of};

/// Returns the codes of the elements from `first` on, the first lowest. Beyond the matrix they are anything.
#[cube]
pub(super) fn codes_from<W: Size>(weight: &PackedWeight<W>, first: u32) -> u32 {
    let per_word = comptime!(weight.codes.per_word() as u32);
    let word = first / per_word;
    let last_word = weight.packed.len() as u32 - 1;
    let low = weight.packed[word as usize].extract(0usize);
    let high = weight.packed[min(word + 1, last_word) as usize].extract(0usize);
    let shift = (first % per_word) * comptime!(weight.codes.bits() as u32);
    // In two steps, for no word can be shifted by its length.
    (low >> shift) | ((high << 1) << (31 - shift))
}

/// A number of each of the two blocks that a run may lie in.
#[derive(CubeType)]
pub(super) struct TwoBlocks {
    first: f32,
    /// Elements that have the first.
    of_first: u32,
    second: f32,
}

#[cube]
impl TwoBlocks {
    /// Looks up the scales of the run from element `first` on.
    pub(super) fn scales<W: Size>(weight: &PackedWeight<W>, first: u32) -> TwoBlocks {
        TwoBlocks {
            first: scale_of(&weight.scales, first),
            of_first: rest_of_block(weight, first),
            second: scale_of(&weight.scales, last_of_run(weight, first)),
        }
    }

    /// Looks up the minima of the run's blocks.
    pub(super) fn minima<W: Size>(weight: &PackedWeight<W>, first: u32) -> TwoBlocks {
        TwoBlocks {
            first: minimum_of(&weight.scales, first),
            of_first: rest_of_block(weight, first),
            second: minimum_of(&weight.scales, last_of_run(weight, first)),
        }
    }

    /// Returns the number of the `i`-th element's block.
    pub(super) fn of(&self, #[comptime] i: u32) -> f32 {
        select(i < self.of_first, self.first, self.second)
    }
}

/// Returns how many elements from `first` on are in its block.
#[cube]
fn rest_of_block<W: Size>(weight: &PackedWeight<W>, first: u32) -> u32 {
    let block = comptime!(weight.load.block as u32);
    block - first % block
}

/// Returns the last element of a run, or of the words: those of the last block end with it or hold its only elements.
#[cube]
fn last_of_run<W: Size>(weight: &PackedWeight<W>, first: u32) -> u32 {
    let per_word = comptime!(weight.codes.per_word() as u32);
    let last_word = (weight.packed.len() as u32 - 1) * per_word;
    min(first, last_word) + comptime!(weight.codes.per_word() as u32 - 1)
}
