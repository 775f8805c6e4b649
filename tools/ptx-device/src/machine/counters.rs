//! What a launch did, in numbers.
//!
//! The rules are those of NVIDIA's devices since compute capability 7.0: a warp's request to global memory takes a transfer for
//! each sector of 32 bytes that it touches; one to shared memory takes a wavefront for each distinct word of four bytes in the bank that
//! has most of them, with 32 banks, accesses of 8 and 16 bytes being served by halves and quarters of the warp.

use crate::machine::lanes::WARP;
use serde::Serialize;
use std::collections::BTreeMap;

/// The size of a sector of global memory in bytes.
const SECTOR: u64 = 32;
/// The banks of shared memory, each a word of four bytes wide.
const BANKS: u64 = 32;

/// Requests of warps to a memory, what they cost and what they would at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Instructions of a warp.
    pub requests: u64,
    /// Sectors, or wavefronts of shared memory.
    pub cost: u64,
    /// The least that the same bytes could cost.
    pub ideal: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.cost += other.cost;
        self.ideal += other.ideal;
        self.bytes += other.bytes;
    }

    /// Returns a request of global memory for `bytes` at each address.
    pub fn of_sectors(addresses: &[u64], bytes: usize) -> Self {
        let size = bytes as u64;
        let mut sectors: Vec<u64> = addresses.iter().map(|first| first / SECTOR).collect();
        sectors.sort_unstable();
        sectors.dedup();
        let mut distinct = addresses.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        Self {
            requests: 1,
            cost: sectors.len() as u64,
            ideal: (distinct.len() as u64 * size).div_ceil(SECTOR),
            bytes: addresses.len() as u64 * size,
        }
    }

    /// Returns a request of shared memory for `bytes` at each lane's address.
    pub fn of_wavefronts(addresses: &[(usize, u64)], bytes: usize) -> Self {
        let lanes_served = match bytes {
            16 => WARP / 4,
            8 => WARP / 2,
            _ => WARP,
        };
        let mut found = Self {
            requests: 1,
            bytes: (addresses.len() * bytes) as u64,
            ..Self::default()
        };
        for group in 0..WARP / lanes_served {
            let of_group = addresses
                .iter()
                .filter(|(lane, _)| lane / lanes_served == group);
            let mut words: Vec<u64> = of_group
                .flat_map(|(_, first)| (0..bytes.div_ceil(4) as u64).map(move |at| first / 4 + at))
                .collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0; BANKS as usize];
            for word in &words {
                banks[(word % BANKS) as usize] += 1;
            }
            found.cost += banks.into_iter().max().unwrap_or(0);
            found.ideal += (words.len() as u64).div_ceil(BANKS);
        }
        found
    }
}

/// What a launch did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Instructions that warps executed.
    pub warp_instructions: u64,
    /// Instructions that lanes took part in.
    pub lane_instructions: u64,
    /// Instructions executed while the lanes of the warp were at different ones.
    pub divergent: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
    /// Matrix instructions.
    pub matrix_products: u64,
    /// Loads from global memory, in sectors.
    pub global_loads: Traffic,
    /// Stores to global memory, in sectors.
    pub global_stores: Traffic,
    /// Loads from shared memory, in wavefronts.
    pub shared_loads: Traffic,
    /// Stores to shared memory, in wavefronts.
    pub shared_stores: Traffic,
    /// Instructions that warps executed, by opcode.
    pub opcodes: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds what another part of the launch did.
    pub fn add(&mut self, other: &Self) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.divergent += other.divergent;
        self.barriers += other.barriers;
        self.matrix_products += other.matrix_products;
        self.global_loads.add(other.global_loads);
        self.global_stores.add(other.global_stores);
        self.shared_loads.add(other.shared_loads);
        self.shared_stores.add(other.shared_stores);
        for (opcode, count) in &other.opcodes {
            *self.opcodes.entry(opcode.clone()).or_default() += count;
        }
    }

    /// Counts a request of global memory.
    pub fn global(&mut self, store: bool, addresses: &[u64], bytes: usize) {
        let traffic = Traffic::of_sectors(addresses, bytes);
        if store {
            self.global_stores.add(traffic);
        } else {
            self.global_loads.add(traffic);
        }
    }

    /// Counts a request of shared memory.
    pub fn shared(&mut self, store: bool, addresses: &[(usize, u64)], bytes: usize) {
        let traffic = Traffic::of_wavefronts(addresses, bytes);
        if store {
            self.shared_stores.add(traffic);
        } else {
            self.shared_loads.add(traffic);
        }
    }
}
