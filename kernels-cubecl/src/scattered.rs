//! Words in shared memory that are written as loads of several words bring them, and read one after the other.
//!
//! Units that write neighbouring loads word by word would meet in a bank, for the words of a load are neighbours too. Here the `q`-th
//! words of all loads lie together, and these groups begin in different banks, so that neither writers nor readers meet.

use cubecl::prelude::*;

/// Banks of shared memory.
const BANKS: usize = 32;

/// Returns where word `word + q` lies, of `words` that come in loads of `width`. Word `word` begins a load, or `q` is 0.
#[cube]
pub(crate) fn scattered(
    word: u32,
    #[comptime] q: usize,
    #[comptime] words: usize,
    #[comptime] width: usize,
) -> usize {
    if comptime!(width == 1) {
        word as usize
    } else {
        let group = comptime!((words / width + BANKS / width) as u32);
        let of_load = word % comptime!(width as u32);
        let load = word / comptime!(width as u32);
        (of_load * group + load) as usize + comptime!(q * group as usize)
    }
}

/// Returns how many words of shared memory so many take.
pub(crate) fn scattered_len(words: usize, width: usize) -> usize {
    words
        + if width == 1 {
            0
        } else {
            (width - 1) * (BANKS / width)
        }
}
