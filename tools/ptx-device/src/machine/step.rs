//! One instruction of one warp.

use crate::machine::counters::Counters;
use crate::machine::fault::Fault;
use crate::machine::lanes::{Lanes, Mask, WARP};
use crate::machine::launch::Launch;
use crate::machine::memory::{Space, check_aligned};
use crate::machine::program::Source;
use crate::machine::shared::{Finding, Hazard, SharedMemory, Thread};
use crate::machine::warp::Warp;
use crate::syntax::{Register, SpecialRegister};
use std::array::from_fn;
use std::collections::HashSet;

/// What an instruction sees of the machine.
pub struct Step<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// The block's index.
    pub block: [u32; 3],
    /// How many barriers the block has passed.
    pub block_epoch: u32,
    /// The block's shared memory.
    pub shared: &'a mut SharedMemory,
    /// The warp.
    pub warp: &'a mut Warp,
    /// The lanes that have come to the instruction.
    pub present: Mask,
    /// Those of them that take part.
    pub active: Mask,
    /// The instruction's place in the program.
    pub at: usize,
    /// What the launch did.
    pub counters: &'a mut Counters,
    /// What was found wrong in shared memory.
    pub findings: &'a mut HashSet<Finding>,
}

impl Step<'_> {
    /// Returns the value of a source in every lane.
    pub fn read(&self, source: Source) -> Lanes {
        match source {
            Source::Register(Register(place)) => self.warp.registers[place],
            Source::Constant(bits) => [bits; WARP],
            Source::Special(register) => self.special(register),
        }
    }

    /// Returns the values of several sources.
    pub fn read_all(&self, sources: &[Source]) -> Vec<Lanes> {
        sources.iter().map(|source| self.read(*source)).collect()
    }

    fn special(&self, register: SpecialRegister) -> Lanes {
        use SpecialRegister as R;
        let each = |f: &dyn Fn(u32) -> u32| from_fn(|lane| u64::from(f(lane as u32)));
        let below = |lane: u32| (1u32 << lane) - 1;
        match register {
            R::Tid(axis) => from_fn(|lane| self.warp.thread[axis][lane].into()),
            R::Ntid(axis) => [self.launch.block[axis].into(); WARP],
            R::Ctaid(axis) => [self.block[axis].into(); WARP],
            R::Nctaid(axis) => [self.launch.grid[axis].into(); WARP],
            R::Laneid => each(&|lane| lane),
            R::Warpid => [self.warp.id as u64; WARP],
            R::WarpSize => [WARP as u64; WARP],
            R::LanemaskEq => each(&|lane| 1 << lane),
            R::LanemaskLt => each(&below),
            R::LanemaskLe => each(&|lane| below(lane) | 1 << lane),
            R::LanemaskGt => each(&|lane| !(below(lane) | 1 << lane)),
            R::LanemaskGe => each(&|lane| !below(lane)),
            R::DynamicSmemSize => [self.launch.dynamic_shared as u64; WARP],
        }
    }

    /// Sets a register in the lanes that take part.
    pub fn write(&mut self, Register(place): Register, values: &Lanes) {
        let register = &mut self.warp.registers[place];
        if self.active == Mask::ALL {
            *register = *values;
            return;
        }
        for lane in self.active.lanes() {
            register[lane] = values[lane];
        }
    }

    /// Reads `out.len()` bytes at an address of a lane, and returns where they lay.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`].
    pub fn load(
        &mut self,
        lane: usize,
        space: Space,
        address: u64,
        out: &mut [u8],
    ) -> Result<(Space, u64), Fault> {
        let (space, address) = space.resolve(address);
        match space {
            Space::Global | Space::Generic => self.launch.memory.read(address, out)?,
            Space::Shared => {
                let thread = self.thread(lane);
                let (shared, mut found) = self.watched();
                shared.read(address, out, thread, &mut found)?;
            }
            Space::Local => {
                let range = self.local(lane, address, out.len())?;
                out.copy_from_slice(&self.warp.local[range]);
            }
            Space::Parameter => {
                let begin = address as usize;
                let bytes = self.launch.parameters.get(begin..begin + out.len());
                out.copy_from_slice(bytes.ok_or(Fault::OutOfBounds {
                    space,
                    address,
                    bytes: out.len(),
                    why: "beyond the last",
                })?);
            }
        }
        Ok((space, address))
    }

    /// Writes `bytes` at an address of a lane, and returns where.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`], [`Fault::ReadOnly`].
    pub fn store(
        &mut self,
        lane: usize,
        space: Space,
        address: u64,
        bytes: &[u8],
    ) -> Result<(Space, u64), Fault> {
        let (space, address) = space.resolve(address);
        match space {
            Space::Global | Space::Generic => self.launch.memory.write(address, bytes)?,
            Space::Shared => {
                let thread = self.thread(lane);
                let (shared, mut found) = self.watched();
                shared.write(address, bytes, thread, &mut found)?;
            }
            Space::Local => {
                let range = self.local(lane, address, bytes.len())?;
                self.warp.local[range].copy_from_slice(bytes);
            }
            Space::Parameter => return Err(Fault::ReadOnly { space }),
        }
        Ok((space, address))
    }

    /// Replaces the `bytes` at an address of a lane by what `f` makes of them and returns what they were.
    ///
    /// # Errors
    /// [`Fault::OutOfBounds`], [`Fault::Misaligned`], [`Fault::ReadOnly`].
    pub fn update(
        &mut self,
        lane: usize,
        space: Space,
        address: u64,
        bytes: usize,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        match space.resolve(address) {
            (Space::Shared, address) => {
                let thread = self.thread(lane);
                self.shared.update(address, bytes, thread, f)
            }
            (Space::Global, address) => self.launch.memory.update(address, bytes, f),
            (space, _) => Err(Fault::ReadOnly { space }),
        }
    }

    /// Counts a request of the lanes that took part, by where their bytes lay.
    pub fn count(&mut self, store: bool, places: &[(usize, Space, u64)], bytes: usize) {
        let of = |wanted| {
            let there = places.iter().filter(move |(_, space, _)| *space == wanted);
            there.map(|(lane, _, address)| (*lane, *address))
        };
        let shared: Vec<_> = of(Space::Shared).collect();
        if !shared.is_empty() {
            self.counters.shared(store, &shared, bytes);
        }
        let global: Vec<_> = of(Space::Global).map(|(_, address)| address).collect();
        if !global.is_empty() {
            self.counters.global(store, &global, bytes);
        }
    }

    /// Refuses an instruction that needs all lanes of `mask` that have not ended, where one is elsewhere.
    ///
    /// # Errors
    /// [`Fault::MissingLanes`]
    pub fn require(&self, mask: Mask) -> Result<(), Fault> {
        let wanted = mask.and(self.warp.lanes).without(self.warp.ended);
        let missing = wanted.without(self.active);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Fault::MissingLanes {
            missing,
            present: self.active,
        })
    }

    /// Returns the lanes that a `.sync` instruction's mask names, after [`require`](Self::require); the lanes must agree on it and each must
    /// be in it.
    ///
    /// # Errors
    /// [`Fault::MissingLanes`], [`Fault::Undefined`].
    pub fn members(&self, mask: Source) -> Result<Mask, Fault> {
        let masks = self.read(mask);
        let mut named = self.active.lanes().map(|lane| Mask(masks[lane] as u32));
        let first = named.next().unwrap_or_default();
        if named.any(|other| other != first) || !self.active.without(first).is_empty() {
            let reason = "the lanes do not agree on who takes part, or one is left out that does";
            return Err(Fault::Undefined(reason.to_owned()));
        }
        self.require(first)?;
        Ok(first)
    }

    /// Returns the shared memory, and what notes a hazard of this instruction.
    fn watched(&mut self) -> (&mut SharedMemory, impl FnMut(Hazard, bool)) {
        let (findings, statement) = (&mut *self.findings, self.at);
        let note = move |hazard, within_a_warp| {
            findings.insert(Finding {
                hazard,
                statement,
                within_a_warp,
            });
        };
        (&mut *self.shared, note)
    }

    fn thread(&self, lane: usize) -> Thread {
        Thread {
            warp: self.warp.id as u16,
            lane: lane as u8,
            block_epoch: self.block_epoch,
            warp_epoch: self.warp.epoch,
        }
    }

    fn local(
        &self,
        lane: usize,
        address: u64,
        bytes: usize,
    ) -> Result<std::ops::Range<usize>, Fault> {
        check_aligned(address, bytes)?;
        let size = self.launch.program.local_bytes;
        let begin = address as usize;
        if begin + bytes > size {
            return Err(Fault::OutOfBounds {
                space: Space::Local,
                address,
                bytes,
                why: "beyond what the lane has",
            });
        }
        Ok(lane * size + begin..lane * size + begin + bytes)
    }
}
