//! Address spaces and what may be touched.

use crate::machine::fault::Fault;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// An address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Whichever the address lies in.
    Generic,
    /// The device's memory, constants included.
    Global,
    /// The block's.
    Shared,
    /// The lane's own.
    Local,
    /// The kernel's parameters.
    Parameter,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generic => "generic",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Parameter => "parameter",
        })
    }
}

/// Where shared memory lies among generic addresses, above any the host hands out.
const SHARED_WINDOW: u64 = 1 << 62;
/// Where a lane's own memory lies among generic addresses.
const LOCAL_WINDOW: u64 = 1 << 61;
/// The size of a window.
const WINDOW: u64 = 1 << 32;

impl Space {
    /// Returns the first generic address of the space.
    pub fn window(self) -> u64 {
        match self {
            Self::Shared => SHARED_WINDOW,
            Self::Local => LOCAL_WINDOW,
            Self::Generic | Self::Global | Self::Parameter => 0,
        }
    }

    /// Returns the space in which an address of this one lies, and the address within that.
    pub fn resolve(self, address: u64) -> (Self, u64) {
        match self {
            Self::Generic => match address {
                inside if inside & !(WINDOW - 1) == SHARED_WINDOW => {
                    (Self::Shared, inside & (WINDOW - 1))
                }
                inside if inside & !(WINDOW - 1) == LOCAL_WINDOW => {
                    (Self::Local, inside & (WINDOW - 1))
                }
                global => (Self::Global, global),
            },
            // Addresses of these spaces have 32 bits that count.
            Self::Shared | Self::Local => (self, address & (WINDOW - 1)),
            Self::Global | Self::Parameter => (self, address),
        }
    }
}

/// Refuses an address that is no multiple of `bytes`.
pub fn check_aligned(address: u64, bytes: usize) -> Result<(), Fault> {
    if address.is_multiple_of(bytes as u64) {
        Ok(())
    } else {
        Err(Fault::Misaligned { address, bytes })
    }
}

/// The device memory that a launch may touch: ranges of the process's own, sorted.
#[derive(Debug, Clone, Default)]
pub struct Allocations {
    ranges: Vec<(u64, u64)>,
}

impl Allocations {
    /// Returns the memory of the given ranges, by first address and size.
    ///
    /// # Safety
    /// Every range must be allocated, and stay so as long as a kernel that is given this may run; nobody else may read or
    /// write it meanwhile but by atomic operations.
    pub unsafe fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges: Vec<_> = ranges
            .into_iter()
            .map(|(begin, bytes)| (begin, begin + bytes))
            .collect();
        ranges.sort_unstable();
        Self { ranges }
    }

    fn check(&self, address: u64, bytes: usize) -> Result<(), Fault> {
        check_aligned(address, bytes)?;
        let after = self.ranges.partition_point(|(begin, _)| *begin <= address);
        let inside = after
            .checked_sub(1)
            .is_some_and(|at| address + bytes as u64 <= self.ranges[at].1);
        if inside {
            return Ok(());
        }
        Err(Fault::OutOfBounds {
            space: Space::Global,
            address,
            bytes,
            why: "not allocated",
        })
    }

    /// Reads `out.len()` bytes, a power of two of at most 16.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.check(address, out.len())?;
        let step = out.len().min(8);
        for (part, out) in out.chunks_mut(step).enumerate() {
            let address = address + (part * step) as u64;
            // SAFETY: `check` found the bytes within a range, which `new`'s caller keeps allocated and shares by atomic
            // operations alone; the address is a multiple of the size.
            let bits = unsafe {
                match step {
                    1 => u64::from((*(address as *const AtomicU8)).load(Ordering::Relaxed)),
                    2 => u64::from((*(address as *const AtomicU16)).load(Ordering::Relaxed)),
                    4 => u64::from((*(address as *const AtomicU32)).load(Ordering::Relaxed)),
                    _ => (*(address as *const AtomicU64)).load(Ordering::Relaxed),
                }
            };
            out.copy_from_slice(&bits.to_le_bytes()[..step]);
        }
        Ok(())
    }

    /// Writes `bytes`, a power of two of at most 16 of them.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.check(address, bytes.len())?;
        let step = bytes.len().min(8);
        for (part, bytes) in bytes.chunks(step).enumerate() {
            let address = address + (part * step) as u64;
            let mut bits = [0; 8];
            bits[..step].copy_from_slice(bytes);
            let bits = u64::from_le_bytes(bits);
            // SAFETY: as in `read`.
            unsafe {
                match step {
                    1 => (*(address as *const AtomicU8)).store(bits as u8, Ordering::Relaxed),
                    2 => (*(address as *const AtomicU16)).store(bits as u16, Ordering::Relaxed),
                    4 => (*(address as *const AtomicU32)).store(bits as u32, Ordering::Relaxed),
                    _ => (*(address as *const AtomicU64)).store(bits, Ordering::Relaxed),
                }
            }
        }
        Ok(())
    }

    /// Replaces the `bytes` (2, 4 or 8) at an address by what `f` makes of them, as one operation, and returns what they were.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn update(&self, address: u64, bytes: usize, f: impl Fn(u64) -> u64) -> Result<u64, Fault> {
        self.check(address, bytes)?;
        macro_rules! exchange {
            ($atomic:ty, $word:ty) => {{
                // SAFETY: as in `read`.
                let cell = unsafe { &*(address as *const $atomic) };
                let mut old = cell.load(Ordering::Relaxed);
                while let Err(now) = cell.compare_exchange_weak(
                    old,
                    f(u64::from(old)) as $word,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    old = now;
                }
                u64::from(old)
            }};
        }
        Ok(match bytes {
            2 => exchange!(AtomicU16, u16),
            4 => exchange!(AtomicU32, u32),
            _ => exchange!(AtomicU64, u64),
        })
    }
}
