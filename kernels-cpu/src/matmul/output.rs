//! The result of a product, parts of which several threads write.

use std::mem::MaybeUninit;

/// The matrix C of a product, row by row.
pub(super) enum Output<'a, E> {
    /// Values that need not exist yet: each of them is written.
    New(&'a mut [MaybeUninit<E>]),
    /// Values that the product is added to.
    Add(&'a mut [E]),
}

/// An [`Output`] that threads write disjoint parts of.
pub(super) struct SharedOutput<E> {
    start: *mut MaybeUninit<E>,
    len: usize,
    n: usize,
    adds: bool,
}

impl<E> Clone for SharedOutput<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for SharedOutput<E> {}

// SAFETY: every access goes through `columns`, whose callers keep the threads apart.
unsafe impl<E: Send> Send for SharedOutput<E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for SharedOutput<E> {}

impl<E> SharedOutput<E> {
    /// Shares `y`, whose rows are `n` long.
    pub(super) fn new(y: Output<'_, E>, n: usize) -> Self {
        let (start, len, adds) = match y {
            Output::New(y) => (y.as_mut_ptr(), y.len(), false),
            Output::Add(y) => (y.as_mut_ptr().cast(), y.len(), true),
        };
        Self {
            start,
            len,
            n,
            adds,
        }
    }

    /// Returns the length of a row.
    pub(super) fn n(self) -> usize {
        self.n
    }

    /// Returns the number of rows.
    pub(super) fn m(self) -> usize {
        self.len / self.n
    }

    /// Returns whether all elements are values, which products are added to.
    pub(super) fn adds(self) -> bool {
        self.adds
    }

    /// Returns up to `len` elements of row `i` from column `j` on, as many as the row has.
    ///
    /// # Safety
    /// `y` is still borrowed, the row exists, no other thread touches these elements meanwhile, and nothing but values is
    /// written.
    #[inline(always)]
    pub(super) unsafe fn columns<'a>(
        self,
        i: usize,
        j: usize,
        len: usize,
    ) -> &'a mut [MaybeUninit<E>] {
        let len = self.n.saturating_sub(j).min(len);
        let at = i * self.n + j.min(self.n);
        debug_assert!(at + len <= self.len);
        // SAFETY: the row exists and the columns were cut to it; the caller owns them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
