//! Grids, blocks, warps and their memories.
//!
//! A block runs to its end before the next of its thread begins; its warps take turns, each up to a barrier or its end. Lanes of
//! a warp go in lockstep: where they part, those at the lowest instruction go first, and they join where they meet.

/// Blocks and their barriers.
mod block;
/// What a launch did, in numbers.
mod counters;
/// What ends a launch.
mod fault;
/// Values of a warp's lanes.
mod lanes;
/// A kernel's launch.
mod launch;
/// Address spaces and what may be touched.
mod memory;
/// A kernel ready to run.
mod program;
/// Shared memory, which remembers who touched it.
mod shared;
/// One instruction of one warp.
mod step;
/// Warps and where their lanes are.
mod warp;

pub use counters::{Counters, Traffic};
pub use fault::{Fault, FaultAt};
pub use lanes::{Lanes, Mask, WARP, Word, map, map2, map3, map4};
pub use launch::{Launch, Outcome};
pub use memory::{Allocations, Space, Touched};
pub use program::{Flow, Instruction, Program, Source};
pub use shared::{Finding, Hazard};
pub use step::Step;
