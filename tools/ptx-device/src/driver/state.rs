//! The state of the device.

use crate::driver::order::{Access, GRANULE, Handle, Order};
use crate::driver::{Status, status};
use crate::machine::Allocations;
use crate::settings::Settings;
use serde::Serialize;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What an allocation is aligned to in bytes.
const ALIGNMENT: usize = GRANULE as usize;
/// How many bytes that were freed stay unused, so that a kernel which still touches them is found out.
const KEPT_FREED: u64 = 256 << 20;

/// The device.
#[derive(Debug)]
pub struct State {
    /// Bytes by address.
    device: BTreeMap<u64, u64>,
    pinned: BTreeMap<u64, u64>,
    freed: VecDeque<(u64, u64)>,
    freed_bytes: u64,
    used: u64,
    /// What streams were given, and in what order.
    pub order: Order,
    /// What a kernel failed with.
    pub failed: Option<Status>,
}

/// Memory that an operation of a stream touches: the first address, the size, and how.
pub type Used = (u64, u64, Access);

/// A line of the streams' log.
#[derive(Debug, Serialize)]
pub struct StreamEntry<'a> {
    /// The stream's handle.
    pub stream: Handle,
    /// `kernel`, `to the device`, `from the device`, `within the device`, `set` or `free`.
    pub operation: &'a str,
    /// A kernel's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<&'a str>,
    /// The bytes of a copy.
    pub bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            device: BTreeMap::new(),
            pinned: BTreeMap::new(),
            freed: VecDeque::new(),
            freed_bytes: 0,
            used: 0,
            order: Order::new(Settings::get().waits_are_missed),
            failed: None,
        }
    }
}

/// Returns the device, for one caller at a time.
pub fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    // A caller that panicked left nothing half done.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the size of the device's memory in bytes.
pub fn memory_bytes() -> u64 {
    (Settings::get().memory_mib as u64) << 20
}

fn layout(bytes: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(bytes.max(1)).ok()?, ALIGNMENT).ok()
}

/// Allocates memory of this process. Its bits are those of numbers that are none, so that what is read before it is written shows.
fn take(bytes: u64) -> Option<u64> {
    let layout = layout(bytes)?;
    // SAFETY: the layout has a size.
    let begin = unsafe { alloc(layout) };
    if begin.is_null() {
        return None;
    }
    // SAFETY: that many bytes were just allocated.
    unsafe { begin.write_bytes(0xff, layout.size()) };
    Some(begin as u64)
}

/// Frees what [`take`] has given.
///
/// # Safety
/// `begin` must have come from [`take`] with that size, and be freed once.
unsafe fn give_back(begin: u64, bytes: u64) {
    if let Some(layout) = layout(bytes) {
        // SAFETY: the caller promises that it was allocated with this layout.
        unsafe { dealloc(begin as *mut u8, layout) };
    }
}

impl State {
    /// Allocates memory of the device, and returns its address.
    ///
    /// # Errors
    /// [`status::OUT_OF_MEMORY`]
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, Status> {
        if bytes > memory_bytes() - self.used {
            return Err(status::OUT_OF_MEMORY);
        }
        let begin = take(bytes).ok_or(status::OUT_OF_MEMORY)?;
        self.device.insert(begin, bytes);
        self.used += bytes;
        Ok(begin)
    }

    /// Frees memory of the device.
    ///
    /// # Errors
    /// [`status::INVALID_VALUE`] for an address that no allocation begins at.
    pub fn free(&mut self, begin: u64) -> Result<(), Status> {
        let bytes = self.device.remove(&begin).ok_or(status::INVALID_VALUE)?;
        self.order.forget(begin, bytes);
        self.used -= bytes;
        self.freed.push_back((begin, bytes));
        self.freed_bytes += bytes;
        while self.freed_bytes > KEPT_FREED
            && let Some((begin, bytes)) = self.freed.pop_front()
        {
            self.freed_bytes -= bytes;
            // SAFETY: it came from `take` in `allocate`, and left the map when it was freed.
            unsafe { give_back(begin, bytes) };
        }
        Ok(())
    }

    /// Allocates pinned memory of the host.
    ///
    /// # Errors
    /// [`status::OUT_OF_MEMORY`]
    pub fn pin(&mut self, bytes: u64) -> Result<u64, Status> {
        let begin = take(bytes).ok_or(status::OUT_OF_MEMORY)?;
        self.pinned.insert(begin, bytes);
        Ok(begin)
    }

    /// Frees pinned memory of the host.
    ///
    /// # Errors
    /// [`status::INVALID_VALUE`] for an address that none begins at.
    pub fn unpin(&mut self, begin: u64) -> Result<(), Status> {
        let bytes = self.pinned.remove(&begin).ok_or(status::INVALID_VALUE)?;
        // SAFETY: it came from `take` in `pin`, and has just left the map.
        unsafe { give_back(begin, bytes) };
        Ok(())
    }

    /// Returns how many bytes of the device are free.
    pub fn free_bytes(&self) -> u64 {
        memory_bytes() - self.used
    }

    /// Refuses a copy to or from device memory that is not there.
    ///
    /// # Errors
    /// [`status::INVALID_VALUE`]
    pub fn check(&self, begin: u64, bytes: usize) -> Result<(), Status> {
        let below = self.device.range(..=begin).next_back();
        let inside = below.is_some_and(|(first, size)| begin + bytes as u64 <= first + size);
        if inside || bytes == 0 {
            Ok(())
        } else {
            eprintln!("ptx-device: a copy of {bytes} bytes at {begin:#x} is out of bounds");
            Err(status::INVALID_VALUE)
        }
    }

    /// Returns the size of the allocation of device memory that begins there.
    pub fn size_of(&self, begin: u64) -> Option<u64> {
        self.device.get(&begin).copied()
    }

    /// Puts an operation into its stream, and holds its uses of memory against those before.
    ///
    /// # Errors
    /// [`status::LAUNCH_FAILED`], from then on, where one is not ordered after another, with a word on stderr.
    pub fn queue(
        &mut self,
        entry: &StreamEntry<'_>,
        used: impl IntoIterator<Item = Used>,
    ) -> Result<(), Status> {
        let settings = Settings::get();
        let name = match entry.kernel {
            Some(kernel) => format!("kernel {kernel}"),
            None => format!("a copy ({})", entry.operation),
        };
        if let Some(path) = &settings.stream_log {
            let line = serde_json::to_string(entry).map_err(std::io::Error::other);
            let written = line.and_then(|line| {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                writeln!(file, "{line}")
            });
            if let Err(error) = written {
                eprintln!("ptx-device: {}: {error}", path.display());
                return Err(status::LAUNCH_FAILED);
            }
        }
        if !settings.checked {
            return Ok(());
        }
        let queued = self.order.queue(entry.stream, &name);
        for (begin, bytes, access) in used {
            if let Err(unordered) = self.order.touch(queued, begin, bytes, access) {
                eprintln!("ptx-device: {unordered}");
                if settings.strict {
                    self.failed = Some(status::LAUNCH_FAILED);
                    return Err(status::LAUNCH_FAILED);
                }
            }
        }
        Ok(())
    }

    /// Returns the memory that a kernel may touch.
    pub fn allocations(&self) -> Allocations {
        let ranges = self.device.iter().map(|(begin, bytes)| (*begin, *bytes));
        // SAFETY: the ranges are allocated. Whoever launches holds the lock on this state until the kernel has ended, and only
        // who holds it frees or copies.
        unsafe { Allocations::new(ranges) }
    }
}
