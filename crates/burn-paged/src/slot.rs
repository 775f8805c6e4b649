//! [`Slot`], the part of the pages that holds one parameter's state.

use std::sync::Arc;

use crate::error::PagedError;
use crate::moments::Moments;
use crate::pool::Pool;
use crate::state_dtype::StateDtype;

/// The state of one parameter: its entry of the page table, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    id: usize,
    dtype: StateDtype,
    elements: usize,
}

/// The initialisation of a slot's moments before an update.
#[derive(Debug, Clone)]
pub enum SlotInit {
    /// Keeps the moments that the slot holds.
    Keep,
    /// Zeros: the parameter's first update.
    Zeros,
    /// A copy of another slot's moments.
    CopyOf(Arc<Slot>),
}

impl Slot {
    pub(crate) fn new(pool: Arc<Pool>, id: usize, dtype: StateDtype, elements: usize) -> Self {
        Self {
            pool,
            id,
            dtype,
            elements,
        }
    }

    /// Returns the pages that it is part of.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns its number in the page table.
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// Returns the number of elements of the parameter.
    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    /// Returns how its moments are held.
    pub(crate) fn dtype(&self) -> StateDtype {
        self.dtype
    }

    /// Reads the moments from wherever their pages are.
    pub(crate) fn read(&self) -> Result<Moments, PagedError> {
        self.pool.read(self)
    }

    /// Replaces the moments.
    pub(crate) fn write(&self, moments: &Moments) -> Result<(), PagedError> {
        self.pool.write(self, moments)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.release(self.id);
    }
}
