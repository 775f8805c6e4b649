//! Shared memory, which remembers who touched it.
//!
//! Two touches of a byte, one of them a write, need something between them that orders them: a barrier of the block, or,
//! for lanes of one warp, a barrier of the warp. A byte that is read must have been written. (The tools racecheck and initcheck of
//! NVIDIA's compute-sanitizer look for the same.)

use crate::machine::fault::Fault;
use crate::machine::memory::{Space, check_aligned};
use std::fmt;

/// What is wrong with a touch of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Hazard {
    /// A read of what another thread has written, with nothing between.
    ReadAfterWrite,
    /// A write over what another thread has written, with nothing between.
    WriteAfterWrite,
    /// A write over what another thread has read, with nothing between.
    WriteAfterRead,
    /// A read of what nobody has written.
    Uninitialized,
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadAfterWrite => "race: a read after another thread's write",
            Self::WriteAfterWrite => "race: a write after another thread's write",
            Self::WriteAfterRead => "race: a write after another thread's read",
            Self::Uninitialized => "a read of shared memory that nobody has written",
        })
    }
}

/// A [`Hazard`] at a statement, by its place in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Finding {
    /// What is wrong.
    pub hazard: Hazard,
    /// The statement that was executed when it showed.
    pub statement: usize,
    /// Whether the two threads are of one warp.
    pub within_a_warp: bool,
}

/// A thread at a moment: what it does is ordered before what others do once one of the two numbers has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its warp.
    pub warp: u16,
    /// Its lane.
    pub lane: u8,
    /// How many barriers its block has passed.
    pub block_epoch: u32,
    /// How many barriers its warp has passed.
    pub warp_epoch: u32,
}

impl Thread {
    /// Returns whether nothing orders what `self` did before what `later` does, and whether both are of one warp.
    fn races_with(self, later: Self) -> Option<bool> {
        if self.block_epoch != later.block_epoch {
            return None;
        }
        if self.warp != later.warp {
            return Some(false);
        }
        (self.lane != later.lane && self.warp_epoch == later.warp_epoch).then_some(true)
    }
}

/// Who touched a byte last.
#[derive(Debug, Clone, Copy, Default)]
struct Touches {
    writer: Option<Thread>,
    reader: Option<Thread>,
    /// A reader of another warp than `reader`'s, of the same time.
    other_reader: Option<Thread>,
}

/// The shared memory of a block.
#[derive(Debug, Clone)]
pub struct SharedMemory {
    bytes: Vec<u8>,
    /// Empty where nothing is checked.
    touches: Vec<Touches>,
}

impl SharedMemory {
    /// Returns memory of `bytes` bytes that nobody has written.
    pub fn new(bytes: usize, checked: bool) -> Self {
        Self {
            // No zeros: what is read before it is written should show.
            bytes: vec![0xcd; bytes],
            touches: vec![Touches::default(); if checked { bytes } else { 0 }],
        }
    }

    fn range(&self, address: u64, bytes: usize) -> Result<std::ops::Range<usize>, Fault> {
        check_aligned(address, bytes)?;
        let begin = address as usize;
        if begin + bytes > self.bytes.len() {
            return Err(Fault::OutOfBounds {
                space: Space::Shared,
                address,
                bytes,
                why: "beyond what the block has",
            });
        }
        Ok(begin..begin + bytes)
    }

    /// Reads `out.len()` bytes, and tells `found` of hazards.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn read(
        &mut self,
        address: u64,
        out: &mut [u8],
        by: Thread,
        found: &mut dyn FnMut(Hazard, bool),
    ) -> Result<(), Fault> {
        let range = self.range(address, out.len())?;
        if let Some(touches) = self.touches.get_mut(range.clone()) {
            for touched in touches {
                match touched.writer {
                    None => found(Hazard::Uninitialized, false),
                    Some(writer) => {
                        if let Some(within) = writer.races_with(by) {
                            found(Hazard::ReadAfterWrite, within);
                        }
                    }
                }
                if touched.reader.is_some_and(|reader| {
                    reader.warp != by.warp && reader.block_epoch == by.block_epoch
                }) {
                    touched.other_reader = touched.reader;
                }
                touched.reader = Some(by);
            }
        }
        out.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    /// Writes `bytes`, and tells `found` of hazards. Writing what is there already disturbs nobody.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn write(
        &mut self,
        address: u64,
        bytes: &[u8],
        by: Thread,
        found: &mut dyn FnMut(Hazard, bool),
    ) -> Result<(), Fault> {
        let range = self.range(address, bytes.len())?;
        if let Some(touches) = self.touches.get_mut(range.clone()) {
            for (place, touched) in touches.iter_mut().enumerate() {
                let same = self.bytes[range.start + place] == bytes[place];
                let unordered = |earlier: Option<Thread>| earlier.and_then(|it| it.races_with(by));
                if !same && let Some(within) = unordered(touched.writer) {
                    found(Hazard::WriteAfterWrite, within);
                }
                let readers = [touched.reader, touched.other_reader];
                if !(same && touched.writer.is_some()) {
                    for within in readers.into_iter().filter_map(unordered) {
                        found(Hazard::WriteAfterRead, within);
                    }
                }
                touched.writer = Some(by);
            }
        }
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    /// Replaces the `bytes` at an address by what `f` makes of them and returns what they were. Such operations are ordered among
    /// themselves.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn update(
        &mut self,
        address: u64,
        bytes: usize,
        by: Thread,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let range = self.range(address, bytes)?;
        let mut old = [0; 8];
        old[..bytes].copy_from_slice(&self.bytes[range.clone()]);
        let old = u64::from_le_bytes(old);
        self.bytes[range.clone()].copy_from_slice(&f(old).to_le_bytes()[..bytes]);
        if let Some(touches) = self.touches.get_mut(range) {
            for touched in touches {
                touched.writer = Some(by);
            }
        }
        Ok(old)
    }
}
