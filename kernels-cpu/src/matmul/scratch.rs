//! Word buffers that outlive the products they serve, because their pages are expensive to come by.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static FREE: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the thread that made it, which gets it back. Taken away while in use: the thread may begin another
/// product while it waits for this one.
pub(super) struct Scratch {
    words: Vec<u32>,
    len: usize,
}

impl Scratch {
    /// `len` words of no particular value.
    pub(super) fn new(len: usize) -> Self {
        let mut words = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if words.len() < len {
            words = vec![0; len];
        }
        Self { words, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        // A thread that is ending has nowhere to put it.
        let _ = FREE.try_with(|free| free.borrow_mut().push(words));
    }
}

impl Deref for Scratch {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.words[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u32] {
        &mut self.words[..self.len]
    }
}
