//! Warps and where their lanes are.

use crate::machine::lanes::{Lanes, Mask, WARP};
use crate::machine::program::Program;
use std::array::from_fn;

/// Lanes of a warp that are at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The instruction they execute next.
    pub at: usize,
    /// The lanes.
    pub lanes: Mask,
}

/// A warp.
#[derive(Debug)]
pub struct Warp {
    /// Its place in the block.
    pub id: usize,
    /// The lanes that it has; the last warp of a block may have fewer than [`WARP`].
    pub lanes: Mask,
    /// The thread index of each lane by dimension.
    pub thread: [[u32; WARP]; 3],
    /// The registers.
    pub registers: Vec<Lanes>,
    /// Each lane's own memory, one behind the other.
    pub local: Vec<u8>,
    /// The carry flag of each lane (`CC.CF`).
    pub carry: Mask,
    /// Where the lanes are that run.
    pub groups: Vec<Group>,
    /// The lanes that wait at a barrier, and where they go on.
    pub waiting: Group,
    /// The lanes that have ended.
    pub ended: Mask,
    /// How many barriers of its own it has passed.
    pub epoch: u32,
}

impl Warp {
    /// Returns the `id`th warp of a block of that many threads by dimension.
    pub fn new(id: usize, block: [u32; 3], program: &Program) -> Self {
        let threads = block.iter().map(|side| *side as usize).product::<usize>();
        let index = |lane: usize| (id * WARP + lane) as u32;
        let thread = [
            from_fn(|lane| index(lane) % block[0]),
            from_fn(|lane| index(lane) / block[0] % block[1]),
            from_fn(|lane| index(lane) / (block[0] * block[1])),
        ];
        let lanes = Mask::of(|lane| id * WARP + lane < threads);
        Self {
            id,
            lanes,
            thread,
            // No zeros: what is read before it is written should show.
            registers: vec![[0xdead_beef_dead_beef; WARP]; program.registers],
            local: vec![0xcd; program.local_bytes * WARP],
            carry: Mask::default(),
            groups: vec![Group { at: 0, lanes }],
            waiting: Group {
                at: 0,
                lanes: Mask::default(),
            },
            ended: Mask::default(),
            epoch: 0,
        }
    }

    /// Sets the warp to the beginning of a kernel, as for another block.
    pub fn restart(&mut self) {
        self.groups = vec![Group {
            at: 0,
            lanes: self.lanes,
        }];
        self.waiting.lanes = Mask::default();
        self.ended = Mask::default();
        self.epoch = 0;
    }

    /// Returns the place in [`groups`](Self::groups) of the group to go on with, after joining those that have met: the one at
    /// the lowest instruction, so that lanes that took a longer way are caught up with.
    pub fn next_group(&mut self) -> Option<usize> {
        if self.groups.len() > 1 {
            self.groups.sort_unstable_by_key(|group| group.at);
            self.groups.dedup_by(|next, first| {
                let met = next.at == first.at;
                if met {
                    first.lanes = first.lanes.or(next.lanes);
                }
                met
            });
        }
        (!self.groups.is_empty()).then_some(0)
    }
}
