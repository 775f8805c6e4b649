//! Cuts the operations that memory bounds into pieces for the threads.
//!
//! The cut depends on lengths alone, so that results depend neither on the number of threads nor on their timing.

use rayon::prelude::*;

/// Elements below which starting threads costs more than it saves.
pub(crate) const PARALLEL: usize = 1 << 15;

/// Elements of a piece; 64 KiB of f32.
pub(crate) const PIECE: usize = 1 << 14;

/// Runs `f` on every piece with its index and the thread's scratch, on all threads if there are enough of `elements`.
pub(crate) fn for_each<T: Send, S: Default>(
    elements: usize,
    pieces: impl Iterator<Item = T>,
    f: impl Fn(&mut S, usize, T) + Sync,
) {
    let pieces = pieces.enumerate();
    if elements < PARALLEL {
        let mut scratch = S::default();
        pieces.for_each(|(i, piece)| f(&mut scratch, i, piece));
    } else {
        let pieces: Vec<_> = pieces.collect();
        pieces
            .into_par_iter()
            .for_each_init(S::default, |scratch, (i, piece)| f(scratch, i, piece));
    }
}
