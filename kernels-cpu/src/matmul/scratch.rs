//! Buffers of words that a thread keeps from one product to the next: fresh pages from the system cost more than packing.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::buffer::{Line, lines};

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the thread that made it, which gets it back. Taken away while in use: the thread may begin another
/// product while it waits for this one.
pub(super) struct Scratch {
    lines: Vec<Line>,
    /// In words.
    len: usize,
}

impl Scratch {
    /// Returns `len` words of unspecified values.
    pub(super) fn new(len: usize) -> Self {
        let count = len.div_ceil(16);
        let lines = match FREE.with_borrow_mut(|free| take(free, count)) {
            Some(lines) if lines.len() >= count => lines,
            shorter => {
                drop(shorter);
                lines(len)
            }
        };
        Self { lines, len }
    }
}

/// Takes the smallest buffer that holds `len` lines, or the largest, which is then to be replaced: so that a thread keeps no
/// more than it once used together.
fn take(free: &mut Vec<Vec<Line>>, len: usize) -> Option<Vec<Line>> {
    let fitting = (0..free.len()).filter(|i| free[*i].len() >= len);
    let best = fitting
        .min_by_key(|i| free[*i].len())
        .or_else(|| (0..free.len()).max_by_key(|i| free[*i].len()))?;
    Some(free.swap_remove(best))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that is ending has nowhere to put it.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl Deref for Scratch {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
