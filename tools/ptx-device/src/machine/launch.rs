//! A kernel's launch.

use crate::machine::block::BlockRunner;
use crate::machine::counters::Counters;
use crate::machine::fault::FaultAt;
use crate::machine::memory::Allocations;
use crate::machine::program::Program;
use crate::machine::shared::Finding;
use rayon::prelude::*;
use std::collections::HashSet;

/// A kernel with all it is launched with.
pub struct Launch<'a> {
    /// The kernel.
    pub program: &'a Program,
    /// The number of blocks by dimension.
    pub grid: [u32; 3],
    /// The threads of a block by dimension.
    pub block: [u32; 3],
    /// The shared memory of a block in bytes, beside the kernel's own.
    pub dynamic_shared: usize,
    /// The parameters, one behind the other as [`Program::parameters`] says.
    pub parameters: &'a [u8],
    /// The memory it may touch.
    pub memory: &'a Allocations,
    /// Whether races and uninitialised reads are looked for.
    pub checked: bool,
    /// The most instructions of warps that a part of the blocks may take: a kernel that does not end is ended.
    pub budget: u64,
}

/// What a launch did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// In numbers.
    pub counters: Counters,
    /// What was found wrong in shared memory, in the program's order.
    pub findings: Vec<Finding>,
}

impl Outcome {
    fn new(counters: Counters, findings: HashSet<Finding>) -> Self {
        let mut findings: Vec<_> = findings.into_iter().collect();
        findings.sort_by_key(|found| (found.statement, found.hazard as u8));
        Self { counters, findings }
    }
}

/// How many parts the blocks of a launch are cut into, so that cores share them.
const PARTS: u64 = 16;

impl Launch<'_> {
    /// Runs all blocks, on all cores.
    ///
    /// # Errors
    /// What the kernel did that it may not, in the first part that went wrong.
    pub fn run(&self) -> Result<Outcome, FaultAt> {
        let [x, y, _] = self.grid.map(u64::from);
        let blocks: u64 = self.grid.iter().map(|side| u64::from(*side)).product();
        let index = |block: u64| [block % x, block / x % y, block / (x * y)].map(|at| at as u32);
        let part = |part: u64| {
            let mut runner = BlockRunner::new(self);
            for block in part * blocks / PARTS..(part + 1) * blocks / PARTS {
                runner.run(index(block))?;
            }
            Ok(runner.finish())
        };
        let parts: Vec<Result<(Counters, HashSet<Finding>), FaultAt>> =
            (0..PARTS).into_par_iter().map(part).collect();
        let mut counters = Counters::default();
        let mut findings = HashSet::new();
        for part in parts {
            let (counted, found) = part?;
            counters.add(&counted);
            findings.extend(found);
        }
        Ok(Outcome::new(counters, findings))
    }

    /// Runs the block at `index` alone.
    ///
    /// # Errors
    /// What the kernel did that it may not.
    pub fn run_block(&self, index: [u32; 3]) -> Result<Outcome, FaultAt> {
        let mut runner = BlockRunner::new(self);
        runner.run(index)?;
        let (counters, findings) = runner.finish();
        Ok(Outcome::new(counters, findings))
    }
}
