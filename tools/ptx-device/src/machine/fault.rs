//! What ends a launch.

use crate::machine::lanes::Mask;
use crate::machine::memory::Space;

/// What a kernel did that it may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Memory that is not there, or not any more.
    #[error("{bytes} bytes of {space} memory at {address:#x} are {why}")]
    OutOfBounds {
        /// The space.
        space: Space,
        /// The address of the first byte.
        address: u64,
        /// The number of bytes.
        bytes: usize,
        /// What is there instead.
        why: &'static str,
    },
    /// An address that is no multiple of the access's size.
    #[error("{bytes} bytes at {address:#x} are not aligned")]
    Misaligned {
        /// The address.
        address: u64,
        /// The size of the access.
        bytes: usize,
    },
    /// A store to a space that cannot be written.
    #[error("{space} memory cannot be written")]
    ReadOnly {
        /// The space.
        space: Space,
    },
    /// `trap`
    #[error("the kernel trapped")]
    Trap,
    /// An instruction that lanes take part in which are elsewhere or gone.
    #[error("lanes {missing:08x} should be here and are not; {present:08x} are", missing = missing.0, present = present.0)]
    MissingLanes {
        /// The lanes that should have come.
        missing: Mask,
        /// The lanes that are there.
        present: Mask,
    },
    /// A lane that asks for the value of a lane which is not there.
    #[error("lane {lane} reads lane {from}, which is not there")]
    AbsentLane {
        /// The lane that reads.
        lane: usize,
        /// The lane it reads.
        from: usize,
    },
    /// A barrier at which some of the block's threads wait, and which others have ended without coming to.
    #[error("lanes {ended:08x} of warp {warp} ended before the barrier that other threads wait at", ended = ended.0)]
    EndedBeforeBarrier {
        /// The warp.
        warp: usize,
        /// Its lanes that ended.
        ended: Mask,
    },
    /// Lanes of one warp at two barriers at once, or a barrier that some lanes' predicates leave out.
    #[error("the lanes of a warp do not meet at one barrier")]
    DivergentBarrier,
    /// More instructions than the budget allows.
    #[error("the launch took more than its {limit} instructions of warps")]
    Budget {
        /// The budget.
        limit: u64,
    },
    /// What is executed differs from what the ISA leaves defined.
    #[error("{0}")]
    Undefined(String),
}

/// A [`Fault`] and where it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}, line {line} `{statement}`, block {block:?}, warp {warp}: {fault}")]
pub struct FaultAt {
    /// The kernel.
    pub kernel: String,
    /// The line of the PTX text.
    pub line: usize,
    /// The statement.
    pub statement: String,
    /// The block's index.
    pub block: [u32; 3],
    /// The warp's place in its block.
    pub warp: usize,
    /// What happened.
    pub fault: Fault,
}
