//! Runs of a row of the weight that begin within a word: as many elements as a word has lie in two words and, a block being
//! longer than a word, in two blocks.

use cubecl::prelude::*;

use super::loader::{PackedWeight, WORD};
use crate::decode::scale_of;

/// Returns the codes of the elements from `first` on, the first lowest. Beyond the matrix they are anything.
#[cube]
pub(super) fn codes_from<W: Size>(packed: &[Vector<u32, W>], first: u32) -> u32 {
    let word = first / comptime!(WORD as u32);
    let last_word = packed.len() as u32 - 1;
    let low = packed[word as usize].extract(0usize);
    let high = packed[min(word + 1, last_word) as usize].extract(0usize);
    let shift = (first % comptime!(WORD as u32)) * 4;
    // In two steps, for no word can be shifted by its length.
    (low >> shift) | ((high << 1) << (31 - shift))
}

/// The scales of the elements of a run.
#[derive(CubeType)]
pub(super) struct StraddlingScales {
    first: f32,
    /// Elements that have the first scale.
    of_first: u32,
    second: f32,
}

#[cube]
impl StraddlingScales {
    /// Looks up the scales of the run from element `first` on.
    pub(super) fn new<W: Size>(weight: &PackedWeight<W>, first: u32) -> StraddlingScales {
        let last_word = (weight.packed.len() as u32 - 1) * comptime!(WORD as u32);
        // The words of the last block end with it or hold its only elements.
        let last = min(first, last_word) + comptime!(WORD as u32 - 1);
        let block = comptime!(weight.load.block as u32);
        StraddlingScales {
            first: scale_of(&weight.scales, first),
            of_first: block - first % block,
            second: scale_of(&weight.scales, last),
        }
    }

    /// Returns the scale of the `i`-th element.
    pub(super) fn of(&self, #[comptime] i: u32) -> f32 {
        select(i < self.of_first, self.first, self.second)
    }
}
