//! [`Pool`], the paging policy: which pages stay, when a step begins and ends, and what goes wrong on the way.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::budget::Budget;
use crate::error::PagedError;
use crate::moments::Moments;
use crate::process;
use crate::report::PagingReport;
use crate::residency::Residency;
use crate::slot::{Slot, SlotInit};
use crate::state_dtype::StateDtype;
use crate::store::{Moved, PageStore, Pages};
use crate::table::{PageTable, Segment};

/// The size and place of pages, and the budget of those that stay.
#[derive(Debug, Clone)]
pub(crate) struct PoolConfig {
    pub budget: Budget,
    pub page_bytes: usize,
    /// The page file, where pages are kept in one.
    #[cfg_attr(not(feature = "host-pages"), expect(dead_code))]
    pub page_file: PathBuf,
    /// For [`Budget::Auto`]: the memory that everything together may take, where it is not the store that says.
    pub memory_limit: Option<u64>,
}

/// The pages of one optimizer.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    config: PoolConfig,
    table: PageTable,
    residency: Residency,
    /// Opened by the first update, which knows the device.
    store: Option<Box<dyn PageStore>>,
    /// Number of the step that is under way, from 1.
    step: u64,
    /// Whether it has updated anything.
    begun: bool,
    /// Whether pages were added, or the budget changed, since residency was decided.
    stale: bool,
    /// Bytes that [`Budget::Auto`] allows now.
    auto: u64,
    /// Moved by the last complete step.
    moved: Moved,
    /// The first thing that went wrong. The state is of no use from then on.
    failed: Option<PagedError>,
}

impl Pool {
    pub fn new(config: PoolConfig) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PoolState {
                table: PageTable::new(config.page_bytes),
                config,
                residency: Residency::default(),
                store: None,
                step: 1,
                begun: false,
                stale: false,
                auto: u64::MAX,
                moved: Moved::default(),
                failed: None,
            }),
        })
    }

    /// A panic while the pool is held leaves the state half updated, which is what `failed` is for.
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => {
                let mut state = PoisonError::into_inner(poisoned);
                state.failed.get_or_insert(PagedError::DeviceFailed {
                    reason: "an update panicked".into(),
                });
                state
            }
        }
    }

    /// Runs `work` unless something went wrong before. What it fails with is kept, and everything fails with it from
    /// then on.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut PoolState) -> Result<T, PagedError>,
    ) -> Result<T, PagedError> {
        let mut state = self.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let result = work(&mut state);
        if let Err(error) = &result {
            state.failed = Some(error.clone());
        }
        result
    }

    /// Makes room for the state of a parameter, and returns how its first update must initialise it.
    pub fn allocate(self: &Arc<Self>, dtype: StateDtype, elements: usize) -> (Slot, SlotInit) {
        let mut state = self.lock();
        let (id, reused) = state.table.allocate(dtype, elements);
        state.add_pages();
        let slot = Slot::new(self.clone(), id, dtype, elements);
        let init = if reused {
            SlotInit::Zeros
        } else {
            SlotInit::Keep
        };
        (slot, init)
    }

    /// Gives back what [`allocate`](Self::allocate) made.
    pub fn release(&self, id: usize) {
        self.lock().table.release(id);
    }

    /// Opens the store of `device` by `open` unless there is one.
    ///
    /// # Errors
    /// [`PagedError::Device`] if there is one of another device.
    pub fn open<S: PageStore>(
        &self,
        device: &str,
        open: impl FnOnce(&PoolConfig) -> S,
    ) -> Result<(), PagedError> {
        self.with(|state| state.open(device, open))
    }

    /// Updates the state of `slot`, initialised as `init` says, in the store of `device`: `update` is called for each
    /// of its runs in order, and brings the page in from the store.
    ///
    /// # Errors
    /// [`PagedError::Device`] if the store is another device's; a store or an update that fails.
    pub fn update<S: PageStore>(
        &self,
        slot: &Slot,
        init: &SlotInit,
        device: &str,
        open: impl FnOnce(&PoolConfig) -> S,
        mut update: impl FnMut(&mut S, &Segment, Pages<'_>) -> Result<(), PagedError>,
    ) -> Result<(), PagedError> {
        self.with(|state| {
            state.open(device, open)?;
            for segment in state.begin(slot, init)? {
                let pages = Pages::new(state.table.used(), &state.residency);
                let store: &mut dyn Any = state.store.as_deref_mut().expect("opened above");
                let store = store
                    .downcast_mut()
                    .expect("a device has one type of store");
                update(store, &segment, pages)?;
            }
            Ok(())
        })
    }

    /// Returns the first thing that went wrong.
    pub fn health(&self) -> Result<(), PagedError> {
        self.lock().failed.clone().map_or(Ok(()), Err)
    }

    /// Keeps what went wrong outside of the pool, as what goes wrong in it is kept.
    #[cfg(any(feature = "ndarray", feature = "tch"))]
    pub fn fail(&self, error: PagedError) {
        self.lock().failed.get_or_insert(error);
    }

    pub fn end_step(&self) -> Result<(), PagedError> {
        self.with(PoolState::end_step)
    }

    /// Ends the step and, with [`Budget::Auto`], decides again which pages stay.
    pub fn prepare(&self) -> Result<(), PagedError> {
        self.with(|state| {
            state.end_step()?;
            if state.config.budget == Budget::Auto {
                state.measure();
                state.decide()?;
            }
            Ok(())
        })
    }

    pub fn set_budget(&self, budget: Budget) -> Result<(), PagedError> {
        budget.validate()?;
        self.with(|state| {
            state.end_step()?;
            state.config.budget = budget;
            state.decide()
        })
    }

    pub fn report(&self) -> PagingReport {
        let state = self.lock();
        let used = state.table.used();
        PagingReport {
            state_bytes: used.iter().map(|used| *used as u64).sum(),
            resident_bytes: state.residency.resident_bytes(used),
            bytes_in: state.moved.bytes_in,
            bytes_out: state.moved.bytes_out,
        }
    }

    /// Reads the moments of a slot.
    pub fn read(&self, slot: &Slot) -> Result<Moments, PagedError> {
        self.with(|state| state.read(slot))
    }

    /// Replaces the moments of a slot.
    pub fn write(&self, slot: &Slot, moments: &Moments) -> Result<(), PagedError> {
        self.with(|state| state.write(slot, moments))
    }
}

impl PoolState {
    fn open<S: PageStore>(
        &mut self,
        device: &str,
        open: impl FnOnce(&PoolConfig) -> S,
    ) -> Result<(), PagedError> {
        let config = &self.config;
        let store = self.store.get_or_insert_with(|| Box::new(open(config)));
        if store.device() == device {
            return Ok(());
        }
        Err(PagedError::Device {
            expected: store.device().into(),
            actual: device.into(),
        })
    }

    /// Begins an update: ends the step before when this one comes round to a parameter again, and initialises the
    /// moments. Returns the runs there are.
    fn begin(&mut self, slot: &Slot, init: &SlotInit) -> Result<Vec<Segment>, PagedError> {
        if self.table.entry(slot.id()).step == self.step {
            self.end_step()?;
        }
        if !self.begun {
            // What was read or restored since the last step is not the step's.
            self.settle()?;
            self.take_moved();
            self.measure();
            if let Some(store) = &mut self.store {
                store.check()?;
            }
            self.begun = true;
        }
        match init {
            SlotInit::Keep => {}
            SlotInit::Zeros => {
                let zeros = Moments::zeros(slot.dtype(), slot.elements());
                self.write(slot, &zeros)?;
            }
            SlotInit::CopyOf(other) => {
                let moments = self.read(other)?;
                self.write(slot, &moments)?;
            }
        }
        let step = self.step;
        let entry = self.table.entry_mut(slot.id());
        entry.step = step;
        Ok(entry.segments.clone())
    }

    fn end_step(&mut self) -> Result<(), PagedError> {
        if !self.begun {
            return Ok(());
        }
        self.begun = false;
        self.step += 1;
        self.settle()?;
        self.moved = self.take_moved();
        if self.stale {
            self.decide()?;
        }
        Ok(())
    }

    fn add_pages(&mut self) {
        while self.residency.pages() < self.table.used().len() {
            let page_bytes = self.config.page_bytes;
            self.residency
                .push(self.config.budget, self.auto, page_bytes);
        }
        self.stale = true;
    }

    /// Finds what [`Budget::Auto`] allows: the memory that there is less the most that all else has taken so far.
    fn measure(&mut self) {
        if self.config.budget != Budget::Auto {
            return;
        }
        let resident = self.residency.resident_bytes(self.table.used());
        let memory = match &self.store {
            Some(store) => store.memory(),
            None => process::memory(),
        };
        self.auto = match (self.config.memory_limit.or(memory.limit), memory.peak) {
            (Some(limit), Some(peak)) => limit.saturating_sub(peak.saturating_sub(resident)),
            _ => u64::MAX,
        };
    }

    /// Decides which pages stay, and moves those that change sides.
    fn decide(&mut self) -> Result<(), PagedError> {
        self.stale = false;
        let used = self.table.used();
        let changes = self.residency.plan(used, self.config.budget, self.auto);
        for (page, stays) in changes {
            self.residency.set(page, stays);
            if let Some(store) = &mut self.store {
                store.migrate(page, Pages::new(used, &self.residency))?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), PagedError> {
        let pages = Pages::new(self.table.used(), &self.residency);
        match &mut self.store {
            Some(store) => store.settle(pages),
            None => Ok(()),
        }
    }

    fn take_moved(&mut self) -> Moved {
        match &mut self.store {
            Some(store) => store.take_moved(),
            None => Moved::default(),
        }
    }

    fn read(&mut self, slot: &Slot) -> Result<Moments, PagedError> {
        let mut moments = Moments::zeros(slot.dtype(), slot.elements());
        let pages = Pages::new(self.table.used(), &self.residency);
        if let Some(store) = &mut self.store {
            for segment in &self.table.entry(slot.id()).segments {
                store.peek(segment.page, pages, &mut |page| {
                    moments.take(segment, &page[segment.bytes()]);
                })?;
            }
        }
        Ok(moments)
    }

    fn write(&mut self, slot: &Slot, moments: &Moments) -> Result<(), PagedError> {
        let pages = Pages::new(self.table.used(), &self.residency);
        if let Some(store) = &mut self.store {
            for segment in &self.table.entry(slot.id()).segments {
                store.poke(segment.page, pages, &mut |page| {
                    moments.put(segment, &mut page[segment.bytes()]);
                })?;
            }
        }
        Ok(())
    }
}
