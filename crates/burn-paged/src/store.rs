//! [`PageStore`], the memory of pages and their way to the place where the update runs.

use std::any::Any;
use std::fmt::Debug;

use crate::error::PagedError;
use crate::residency::Residency;

/// The pages as a store sees them: how far each is filled, and which of them stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages<'a> {
    used: &'a [usize],
    residency: &'a Residency,
}

impl<'a> Pages<'a> {
    /// Takes the bytes in use of each page, from its beginning, and which pages stay.
    pub fn new(used: &'a [usize], residency: &'a Residency) -> Self {
        Self { used, residency }
    }

    /// Returns the number of pages.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Returns the bytes in use of a page.
    pub fn used(&self, page: usize) -> usize {
        self.used[page]
    }

    /// Returns whether a page stays.
    pub fn is_resident(&self, page: usize) -> bool {
        self.residency.is_resident(page)
    }

    /// Returns the streamed page that is visited after `page`, the first of them after the last or without a `page`.
    pub fn next_streamed(&self, page: Option<usize>) -> Option<usize> {
        self.residency.next_streamed(page)
    }
}

/// Bytes that passed between the buffers where the update runs and the backing store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Bytes of the memory that resident pages are in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryUse {
    /// The most that everything together has taken so far, where that is known.
    pub peak: Option<u64>,
    /// The most that everything together may take, where that is known.
    pub limit: Option<u64>,
}

/// The pages of one optimizer on one device: resident ones where the update runs, the others in a backing store,
/// from which they are streamed through two buffers.
///
/// To be updated a page is brought in by the store's own `load`, which is no part of this trait because what it yields is
/// the device's: bytes on the host, a buffer on a CubeCL device.
pub(crate) trait PageStore: Any + Debug + Send {
    /// Returns the device whose updates the pages serve, as errors name it.
    fn device(&self) -> &str;

    /// Checks that the backing store still is what was written to it.
    ///
    /// # Errors
    /// A backing store that has changed since.
    fn check(&mut self) -> Result<(), PagedError> {
        Ok(())
    }

    /// Shows a page's bytes outside of a step, which they are not counted for.
    ///
    /// # Errors
    /// A backing store or a device that fails.
    fn peek(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<(), PagedError>;

    /// Changes a page's bytes outside of a step, which they are not counted for.
    ///
    /// # Errors
    /// A backing store or a device that fails.
    fn poke(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        change: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), PagedError>;

    /// Writes back what is in the buffers and begins to bring in the first page of the next step.
    ///
    /// # Errors
    /// A backing store or a device that fails.
    fn settle(&mut self, pages: Pages<'_>) -> Result<(), PagedError>;

    /// Moves a page to the side that `pages` has it on by now. Between steps only.
    ///
    /// # Errors
    /// A backing store or a device that fails.
    fn migrate(&mut self, page: usize, pages: Pages<'_>) -> Result<(), PagedError>;

    /// Returns what was moved since this was asked last.
    fn take_moved(&mut self) -> Moved;

    /// Returns what the memory of resident pages has held and may hold.
    fn memory(&self) -> MemoryUse;
}
