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

/// The bytes whose uses by a kernel are remembered as one.
const GRANULE: u64 = 512;

/// Bytes that a launch may touch, and which of their granules it has.
#[derive(Debug)]
struct Range {
    begin: u64,
    end: u64,
    read: Vec<AtomicU64>,
    written: Vec<AtomicU64>,
}

impl Range {
    fn new(begin: u64, bytes: u64) -> Self {
        let words = bytes.div_ceil(64 * GRANULE);
        let none = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self {
            begin,
            end: begin + bytes,
            read: none(),
            written: none(),
        }
    }

    fn mark(&self, granules: &[AtomicU64], address: u64) {
        let granule = (address - self.begin) / GRANULE;
        let (word, bit) = (&granules[(granule / 64) as usize], 1 << (granule % 64));
        // Most are marked already, and a read is shared by cores.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

/// The device memory that a launch may touch: ranges of the process's own, sorted. It remembers what was touched.
#[derive(Debug, Default)]
pub struct Allocations {
    ranges: Vec<Range>,
}

/// Bytes that a launch has touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The first address.
    pub begin: u64,
    /// How many there are.
    pub bytes: u64,
    /// Whether any was written.
    pub written: bool,
}

impl Allocations {
    /// Returns the memory of the given ranges, by first address and size.
    ///
    /// # Safety
    /// Every range must be allocated, and stay so as long as a kernel that is given this may run; nobody else may read or
    /// write it meanwhile but by atomic operations.
    pub unsafe fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let ranges = ranges.into_iter();
        let mut ranges: Vec<_> = ranges
            .map(|(begin, bytes)| Range::new(begin, bytes))
            .collect();
        ranges.sort_unstable_by_key(|range| range.begin);
        Self { ranges }
    }

    /// Returns what was touched, in order of address, in pieces that lie within one range each.
    pub fn touched(&self) -> impl Iterator<Item = Touched> {
        self.ranges.iter().flat_map(|range| {
            let words = range.read.iter().zip(&range.written).enumerate();
            words.flat_map(move |(place, (read, written))| {
                let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
                let (read, written) = (load(read), load(written));
                // Most words of a large range are untouched.
                let end = if read | written == 0 { 0 } else { 64 };
                let bits = (0..end).filter(move |bit| (read | written) >> bit & 1 == 1);
                bits.map(move |bit| {
                    let begin = range.begin + (64 * place as u64 + bit) * GRANULE;
                    Touched {
                        begin,
                        bytes: GRANULE.min(range.end - begin),
                        written: written >> bit & 1 == 1,
                    }
                })
            })
        })
    }

    fn check(&self, address: u64, bytes: usize) -> Result<&Range, Fault> {
        check_aligned(address, bytes)?;
        let after = self.ranges.partition_point(|range| range.begin <= address);
        let range = after.checked_sub(1).map(|at| &self.ranges[at]);
        range
            .filter(|range| address + bytes as u64 <= range.end)
            .ok_or(Fault::OutOfBounds {
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
        let range = self.check(address, out.len())?;
        range.mark(&range.read, address);
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
        let range = self.check(address, bytes.len())?;
        range.mark(&range.written, address);
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
        let range = self.check(address, bytes)?;
        range.mark(&range.read, address);
        range.mark(&range.written, address);
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
