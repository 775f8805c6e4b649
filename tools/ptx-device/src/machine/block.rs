//! Blocks and their barriers.

use crate::machine::counters::Counters;
use crate::machine::fault::{Fault, FaultAt};
use crate::machine::lanes::{Mask, WARP};
use crate::machine::launch::Launch;
use crate::machine::program::Flow;
use crate::machine::shared::{Finding, SharedMemory};
use crate::machine::step::Step;
use crate::machine::warp::{Group, Warp};
use std::collections::HashSet;

/// What runs a launch's blocks one after the other.
pub struct BlockRunner<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    opcodes: Vec<u64>,
    counters: Counters,
    findings: HashSet<Finding>,
}

impl<'a> BlockRunner<'a> {
    /// Returns a runner of blocks of `launch`.
    pub fn new(launch: &'a Launch<'a>) -> Self {
        let threads: usize = launch.block.iter().map(|side| *side as usize).product();
        let warps = (0..threads.div_ceil(WARP))
            .map(|id| Warp::new(id, launch.block, launch.program))
            .collect();
        Self {
            launch,
            warps,
            opcodes: vec![0; launch.program.opcodes.len()],
            counters: Counters::default(),
            findings: HashSet::new(),
        }
    }

    /// Runs a block to its end.
    ///
    /// # Errors
    /// What the kernel did that it may not.
    pub fn run(&mut self, block: [u32; 3]) -> Result<(), FaultAt> {
        let launch = self.launch;
        let bytes = launch.program.shared_bytes + launch.dynamic_shared;
        let mut shared = SharedMemory::new(bytes, launch.checked);
        for warp in &mut self.warps {
            warp.restart();
        }
        for epoch in 0.. {
            for warp in 0..self.warps.len() {
                self.run_warp(warp, block, epoch, &mut shared)?;
            }
            if !self.release(block)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns what the blocks did and what was found wrong.
    pub fn finish(mut self) -> (Counters, HashSet<Finding>) {
        let names = self.launch.program.opcodes.iter().cloned();
        self.counters.opcodes = names.zip(self.opcodes).collect();
        (self.counters, self.findings)
    }

    /// Lets the lanes go on that wait at a barrier, now that no other runs. Returns whether there are any.
    fn release(&mut self, block: [u32; 3]) -> Result<bool, FaultAt> {
        let waiting = |warp: &Warp| !warp.waiting.lanes.is_empty();
        if !self.warps.iter().any(waiting) {
            return Ok(false);
        }
        self.counters.barriers += 1;
        let barrier = self.warps.iter().find(|warp| waiting(warp));
        let at = barrier.map_or(0, |warp| warp.waiting.at - 1);
        for place in 0..self.warps.len() {
            let warp = &mut self.warps[place];
            if !warp.ended.is_empty() {
                let fault = Fault::EndedBeforeBarrier {
                    warp: place,
                    ended: warp.ended,
                };
                return Err(self.at(at, block, place, fault));
            }
            warp.groups.push(warp.waiting);
            warp.waiting.lanes = Mask::default();
        }
        Ok(true)
    }

    /// Runs a warp until all its lanes wait or have ended.
    fn run_warp(
        &mut self,
        place: usize,
        block: [u32; 3],
        epoch: u32,
        shared: &mut SharedMemory,
    ) -> Result<(), FaultAt> {
        let launch = self.launch;
        let code = &launch.program.code;
        while let Some(group) = self.warps[place].next_group() {
            let warp = &mut self.warps[place];
            let Group { at, lanes: present } = warp.groups[group];
            let Some(decoded) = code.get(at) else {
                let reason = "the kernel runs past its end".to_owned();
                return Err(self.at(at - 1, block, place, Fault::Undefined(reason)));
            };
            let active = match decoded.guard {
                None => present,
                Some(guard) => {
                    let predicate = &warp.registers[guard.predicate.0];
                    present.and(Mask::of(|lane| (predicate[lane] & 1 == 1) != guard.negated))
                }
            };
            self.counters.warp_instructions += 1;
            self.counters.lane_instructions += u64::from(active.count());
            self.counters.divergent += u64::from(warp.groups.len() > 1);
            self.opcodes[decoded.opcode] += 1;
            if self.counters.warp_instructions > launch.budget {
                let limit = launch.budget;
                return Err(self.at(at, block, place, Fault::Budget { limit }));
            }
            let flow = if active.is_empty() {
                Ok(Flow::Next)
            } else {
                decoded.instruction.execute(&mut Step {
                    launch,
                    block,
                    block_epoch: epoch,
                    shared: &mut *shared,
                    warp: &mut *warp,
                    present,
                    active,
                    at,
                    counters: &mut self.counters,
                    findings: &mut self.findings,
                })
            };
            let moved = flow.and_then(|flow| go_on(warp, group, active, flow));
            moved.map_err(|fault| self.at(at, block, place, fault))?;
        }
        Ok(())
    }

    fn at(&self, at: usize, block: [u32; 3], warp: usize, fault: Fault) -> FaultAt {
        let program = self.launch.program;
        let decoded = program.code.get(at);
        FaultAt {
            kernel: program.name.clone(),
            line: decoded.map_or(0, |decoded| decoded.line),
            statement: decoded.map_or_else(String::new, |decoded| decoded.text.clone()),
            block,
            warp,
            fault,
        }
    }
}

/// Moves a group's lanes to where they go after an instruction that `active` of them took part in.
fn go_on(warp: &mut Warp, group: usize, active: Mask, flow: Flow) -> Result<(), Fault> {
    let Group { at, lanes } = warp.groups[group];
    let rest = Group {
        at: at + 1,
        lanes: lanes.without(active),
    };
    match flow {
        Flow::Next => {
            warp.groups[group].at = at + 1;
            return Ok(());
        }
        Flow::Jump(target) => warp.groups.push(Group {
            at: target,
            lanes: active,
        }),
        Flow::Exit => warp.ended = warp.ended.or(active),
        Flow::Wait => {
            let elsewhere = !warp.waiting.lanes.is_empty() && warp.waiting.at != at + 1;
            if elsewhere || !rest.lanes.is_empty() {
                return Err(Fault::DivergentBarrier);
            }
            warp.waiting = Group {
                at: at + 1,
                lanes: warp.waiting.lanes.or(active),
            };
        }
    }
    if rest.lanes.is_empty() {
        warp.groups.swap_remove(group);
    } else {
        warp.groups[group] = rest;
    }
    Ok(())
}
