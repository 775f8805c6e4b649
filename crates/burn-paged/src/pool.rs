//! [`Pool`], the pages of one optimizer on one device, and [`Slot`], one parameter's part of them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory;
use crate::residency::{PagingReport, Residency, lru_bytes};
use crate::table::{PageTable, Precision, Segment};
use crate::{Budget, Moments, PagedError};

/// Where pages are and how many stay.
#[derive(Debug, Clone)]
pub(crate) struct PoolSettings {
    pub budget: Budget,
    pub page_bytes: usize,
    /// The page file, where pages are kept in one.
    pub page_file: PathBuf,
    /// For [`Budget::Auto`]: the memory that everything together may take, where it is not the system that says.
    pub memory_limit: Option<u64>,
}

/// The pages of one optimizer.
#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Inner>,
}

/// The state of one parameter: its entry of the page table, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    id: usize,
    precision: Precision,
    elements: usize,
}

/// What an update begins with.
#[derive(Debug, Clone)]
pub enum Begin {
    /// The moments that are there.
    Keep,
    /// Zeros: the parameter's first update.
    Zeros,
    /// Another's moments, whose owner goes on by itself.
    CopyOf(Arc<Slot>),
}

/// Where the pages of a device are at home.
#[derive(Debug)]
pub(crate) enum Home {
    #[cfg(feature = "flex")]
    Host(Box<crate::host::HostPages>),
    #[cfg(feature = "cubecl-backend")]
    Device(Box<crate::device::DevicePages>),
}

#[derive(Debug)]
pub(crate) struct Inner {
    settings: PoolSettings,
    table: PageTable,
    residency: Residency,
    home: Option<Home>,
    /// Number of the step that is under way, from 1.
    step: u64,
    /// Whether it has updated anything.
    begun: bool,
    /// Whether pages were added, or the budget changed, since residency was decided.
    stale: bool,
    /// What [`Budget::Auto`] allows now.
    auto: u64,
    last: PagingReport,
    /// The first thing that went wrong. The state is of no use from then on.
    failed: Option<PagedError>,
}

impl Pool {
    pub(crate) fn new(settings: PoolSettings) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                table: PageTable::new(settings.page_bytes),
                settings,
                residency: Residency::default(),
                home: None,
                step: 1,
                begun: false,
                stale: false,
                auto: u64::MAX,
                last: PagingReport::default(),
                failed: None,
            }),
        })
    }

    /// A panic while the pool is held leaves the state half updated, which is what `failed` is for.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        match self.inner.lock() {
            Ok(inner) => inner,
            Err(poisoned) => {
                let mut inner = PoisonError::into_inner(poisoned);
                inner.failed.get_or_insert(PagedError::DeviceFailed {
                    reason: "an update panicked".into(),
                });
                inner
            }
        }
    }

    /// Room for the state of a parameter, and what its first update must begin with.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        precision: Precision,
        elements: usize,
    ) -> (Slot, Begin) {
        let mut inner = self.lock();
        let (id, reused) = inner.table.allocate(precision, elements);
        inner.add_pages();
        let slot = Slot {
            pool: self.clone(),
            id,
            precision,
            elements,
        };
        (slot, if reused { Begin::Zeros } else { Begin::Keep })
    }

    /// Runs `work` on the pages at home on a device, which `open` makes them if they have none yet. What it
    /// fails with is kept, and everything fails with it from then on.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, PagedError>,
    ) -> Result<T, PagedError> {
        let mut inner = self.lock();
        if let Some(error) = &inner.failed {
            return Err(error.clone());
        }
        let result = work(&mut inner);
        if let Err(error) = &result {
            inner.failed = Some(error.clone());
        }
        result
    }

    /// The first thing that went wrong.
    pub(crate) fn health(&self) -> Result<(), PagedError> {
        self.lock().failed.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn end_step(&self) -> Result<(), PagedError> {
        self.with(Inner::end_step)
    }

    pub(crate) fn prepare(&self) -> Result<(), PagedError> {
        self.with(|inner| {
            inner.end_step()?;
            if inner.settings.budget == Budget::Auto {
                inner.measure();
                inner.decide()?;
            }
            Ok(())
        })
    }

    pub(crate) fn set_budget(&self, budget: Budget) -> Result<(), PagedError> {
        budget.validate()?;
        self.with(|inner| {
            inner.end_step()?;
            inner.settings.budget = budget;
            inner.decide()
        })
    }

    pub(crate) fn report(&self) -> PagingReport {
        let inner = self.lock();
        let used = inner.table.used();
        PagingReport {
            state_bytes: used.iter().map(|used| *used as u64).sum(),
            resident_bytes: inner.residency.resident_bytes(used),
            ..inner.last
        }
    }
}

impl Slot {
    /// The pages that it is part of.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Elements of the parameter.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// How its moments are held.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Reads the moments from wherever their pages are.
    pub(crate) fn read(&self) -> Result<Moments, PagedError> {
        self.pool.with(|inner| inner.read(self))
    }

    /// Replaces the moments.
    pub(crate) fn write(&self, moments: &Moments) -> Result<(), PagedError> {
        self.pool.with(|inner| inner.write(self, moments))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.lock().table.release(self.id);
    }
}

impl Inner {
    /// The home of the pages, made by `open` if they have none.
    pub fn home(&mut self, open: impl FnOnce(&PoolSettings) -> Home) -> &mut Home {
        self.home.get_or_insert_with(|| open(&self.settings))
    }

    /// Begins an update: ends the step before when this one comes round to a parameter again, and brings the
    /// moments to what they must begin with. Says which runs there are.
    pub fn begin(&mut self, slot: &Slot, begin: &Begin) -> Result<Vec<Segment>, PagedError> {
        if self.table.entry(slot.id).step == self.step {
            self.end_step()?;
        }
        if !self.begun {
            // What was read or restored since the last step is not the step's.
            self.settle()?;
            self.take_moved();
            self.measure();
            match &mut self.home {
                #[cfg(feature = "flex")]
                Some(Home::Host(pages)) => pages.check()?,
                _ => {}
            }
            self.begun = true;
        }
        match begin {
            Begin::Keep => {}
            Begin::Zeros => {
                let zeros = Moments::zeros(slot.precision, slot.elements);
                self.write(slot, &zeros)?;
            }
            Begin::CopyOf(other) => {
                let moments = self.read(other)?;
                self.write(slot, &moments)?;
            }
        }
        let step = self.step;
        let entry = self.table.entry_mut(slot.id);
        entry.step = step;
        Ok(entry.segments.clone())
    }

    /// The bytes of a run, to be changed, of pages at home on the host.
    #[cfg(feature = "flex")]
    pub fn host_run(&mut self, segment: &Segment) -> Result<&mut [u8], PagedError> {
        let used = self.table.used();
        let pages = match &mut self.home {
            Some(Home::Host(pages)) => pages,
            other => return Err(elsewhere("Flex", other.as_ref())),
        };
        pages.load(segment.page, used, &self.residency)?;
        pages.changed(segment.page, used, &self.residency);
        let page = pages.load(segment.page, used, &self.residency)?;
        Ok(&mut page[segment.offset..segment.end])
    }

    /// Bytes of a page.
    #[cfg(feature = "cubecl-backend")]
    pub fn page_bytes(&self) -> usize {
        self.settings.page_bytes
    }

    /// A page, to be changed, of pages that belong to `device`.
    #[cfg(feature = "cubecl-backend")]
    pub fn device_page(
        &mut self,
        device: &burn_cubecl::CubeDevice,
        page: usize,
    ) -> Result<cubecl::server::Handle, PagedError> {
        match &mut self.home {
            Some(Home::Device(pages)) if pages.device() == device => {
                pages.load(page, self.table.used(), &self.residency)
            }
            other => Err(elsewhere(&format!("{device:?}"), other.as_ref())),
        }
    }

    /// The dynamic maps of 8-bit moments, on the pages' device.
    #[cfg(feature = "cubecl-backend")]
    pub fn device_maps(&mut self) -> Result<cubecl::server::Handle, PagedError> {
        match &mut self.home {
            Some(Home::Device(pages)) => Ok(pages.maps()),
            other => Err(elsewhere("a CubeCL device", other.as_ref())),
        }
    }

    fn end_step(&mut self) -> Result<(), PagedError> {
        if !self.begun {
            return Ok(());
        }
        self.begun = false;
        self.step += 1;
        self.settle()?;
        let moved = self.take_moved();
        let used = self.table.used();
        let resident = self.residency.resident_bytes(used);
        self.last = PagingReport {
            bytes_in: moved.0,
            bytes_out: moved.1,
            lru_bytes: lru_bytes(used, resident + 2 * self.settings.page_bytes as u64),
            ..PagingReport::default()
        };
        if self.stale {
            self.decide()?;
        }
        Ok(())
    }

    fn add_pages(&mut self) {
        while self.residency.pages() < self.table.used().len() {
            let page_bytes = self.settings.page_bytes;
            self.residency
                .push(self.settings.budget, self.auto, page_bytes);
        }
        self.stale = true;
    }

    /// What [`Budget::Auto`] allows: the memory that there is less the most that all else has taken so far.
    fn measure(&mut self) {
        if self.settings.budget != Budget::Auto {
            return;
        }
        let resident = self.residency.resident_bytes(self.table.used());
        let limit = self.settings.memory_limit;
        let (limit, peak) = match &self.home {
            #[cfg(feature = "cubecl-backend")]
            Some(Home::Device(pages)) => (limit, Some(pages.device_bytes())),
            _ => (limit.or_else(memory::limit), memory::peak_rss_bytes()),
        };
        self.auto = match (limit, peak) {
            (Some(limit), Some(peak)) => limit.saturating_sub(peak.saturating_sub(resident)),
            _ => u64::MAX,
        };
    }

    /// Decides which pages stay, and moves those that change sides.
    fn decide(&mut self) -> Result<(), PagedError> {
        self.stale = false;
        let used = self.table.used();
        let changes = self.residency.plan(used, self.settings.budget, self.auto);
        for (page, stays) in changes {
            match &mut self.home {
                #[cfg(feature = "flex")]
                Some(Home::Host(pages)) => {
                    pages.migrate(page, stays, used, &mut self.residency)?;
                }
                #[cfg(feature = "cubecl-backend")]
                Some(Home::Device(pages)) => {
                    pages.migrate(page, stays, used, &mut self.residency)?;
                }
                None => self.residency.set(page, stays),
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), PagedError> {
        match &mut self.home {
            #[cfg(feature = "flex")]
            Some(Home::Host(pages)) => pages.settle(self.table.used(), &self.residency),
            #[cfg(feature = "cubecl-backend")]
            Some(Home::Device(pages)) => pages.settle(self.table.used(), &self.residency),
            None => Ok(()),
        }
    }

    fn take_moved(&mut self) -> (u64, u64) {
        match &mut self.home {
            #[cfg(feature = "flex")]
            Some(Home::Host(pages)) => {
                let moved = pages.take_moved();
                (moved.bytes_in, moved.bytes_out)
            }
            #[cfg(feature = "cubecl-backend")]
            Some(Home::Device(pages)) => pages.take_moved(),
            None => (0, 0),
        }
    }

    fn read(&mut self, slot: &Slot) -> Result<Moments, PagedError> {
        let mut moments = Moments::zeros(slot.precision, slot.elements);
        let used = self.table.used();
        for segment in &self.table.entry(slot.id).segments {
            let run = segment.offset..segment.end;
            match &mut self.home {
                #[cfg(feature = "flex")]
                Some(Home::Host(pages)) => {
                    let page = pages.peek(segment.page, used, &self.residency)?;
                    moments.take(segment, &page[run]);
                }
                #[cfg(feature = "cubecl-backend")]
                Some(Home::Device(pages)) => {
                    let page = pages.peek(segment.page, used, &self.residency)?;
                    moments.take(segment, &page[run]);
                }
                None => {}
            }
        }
        Ok(moments)
    }

    fn write(&mut self, slot: &Slot, moments: &Moments) -> Result<(), PagedError> {
        let used = self.table.used();
        for segment in &self.table.entry(slot.id).segments {
            let run = segment.offset..segment.end;
            match &mut self.home {
                #[cfg(feature = "flex")]
                Some(Home::Host(pages)) => {
                    let page = pages.poke(segment.page, used, &self.residency)?;
                    moments.put(segment, &mut page[run]);
                }
                #[cfg(feature = "cubecl-backend")]
                Some(Home::Device(pages)) => {
                    pages.poke(segment.page, used, &self.residency, |page| {
                        moments.put(segment, &mut page[run.clone()]);
                    })?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// The error of an update on another device than the pages'.
pub(crate) fn elsewhere(actual: &str, home: Option<&Home>) -> PagedError {
    PagedError::Device {
        expected: match home {
            #[cfg(feature = "flex")]
            Some(Home::Host(_)) => "Flex".into(),
            #[cfg(feature = "cubecl-backend")]
            Some(Home::Device(pages)) => pages.name(),
            None => "no device yet".into(),
        },
        actual: actual.into(),
    }
}
