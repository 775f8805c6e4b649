//! Launches that were written down, run again without the program that made them.
//!
//! What a launch does in numbers depends on the values in memory only where they are indices or decide a branch. Memory holds
//! numbers at random, the same in every run, whose halves are small positive floats in each format of 16 bits, and which are
//! such in 32 bits too.

use crate::instruction::DecodeError;
use crate::machine::{Allocations, Counters, FaultAt, Launch, Program};
use crate::syntax::{Module, SyntaxError, VariableSpace};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A launch as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    /// The kernel's name.
    pub entry: String,
    /// The number of blocks by dimension.
    pub grid: [u32; 3],
    /// The threads of a block by dimension.
    pub block: [u32; 3],
    /// The shared memory of a block in bytes, beside the kernel's own.
    pub dynamic_shared: usize,
    /// The parameters in order.
    pub parameters: Vec<Parameter>,
}

/// What a kernel is given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    /// The address of a place in memory that is allocated.
    Memory {
        /// Tells memories apart: parameters of one number are places in the same.
        number: usize,
        /// The size of that memory in bytes.
        bytes: usize,
        /// The place in bytes.
        offset: usize,
    },
    /// The address of words that were written.
    Words(Vec<u64>),
    /// The words themselves.
    Value(Vec<u64>),
}

/// Why a launch cannot be run again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The text is no PTX as this device reads it.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The module has no such kernel.
    #[error("there is no kernel {0}")]
    NoKernel(String),
    /// The module has variables in global memory, which a launch that was written down does not hold.
    #[error("the module has variables in global memory")]
    Globals,
    /// An instruction that this device does not have.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not the parameters that the kernel takes.
    #[error("the kernel takes {takes} parameters, and the launch gives {gives}")]
    Parameters {
        /// Those of the kernel.
        takes: usize,
        /// Those of the launch.
        gives: usize,
    },
    /// A value of another size than the kernel's parameter, or a place outside of its memory.
    #[error("parameter {0} does not fit the kernel or its memory")]
    Parameter(usize),
    /// What the kernel did that it may not.
    #[error(transparent)]
    Fault(#[from] FaultAt),
}

impl Recorded {
    /// Runs the block in the middle of the grid, of the kernel in the module `ptx`, and returns what it did.
    ///
    /// # Errors
    /// [`ReplayError`]; a kernel that executes more than `budget` instructions of warps is ended.
    pub fn run_middle_block(&self, ptx: &str, budget: u64) -> Result<Counters, ReplayError> {
        let module = Module::parse(ptx)?;
        let entry = module.entries.get(&self.entry);
        let entry = entry.ok_or_else(|| ReplayError::NoKernel(self.entry.clone()))?;
        let is_global = |space| space == VariableSpace::Global;
        if module.variables.iter().any(|it| is_global(it.space)) {
            return Err(ReplayError::Globals);
        }
        let program = Program::new(entry, &HashMap::new())?;
        let mut memories = Memories::default();
        let parameters = self.laid_out(&program, &mut memories)?;
        let launch = Launch {
            program: &program,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            parameters: &parameters,
            memory: &memories.allocations(),
            checked: false,
            budget,
        };
        let outcome = launch.run_block(self.grid.map(|side| side / 2))?;
        Ok(outcome.counters)
    }

    /// Allocates what the parameters stand for, and returns their bytes.
    fn laid_out(&self, program: &Program, memories: &mut Memories) -> Result<Vec<u8>, ReplayError> {
        let [takes, gives] = [program.parameters.len(), self.parameters.len()];
        if takes != gives {
            return Err(ReplayError::Parameters { takes, gives });
        }
        let mut laid = vec![0; program.parameter_bytes];
        for (place, parameter) in self.parameters.iter().enumerate() {
            let value = match parameter {
                Parameter::Value(words) => bytes_of(words),
                Parameter::Words(words) => memories.hold_words(words).to_le_bytes().to_vec(),
                Parameter::Memory {
                    number,
                    bytes,
                    offset,
                } if offset <= bytes => {
                    let address = memories.numbered(*number, *bytes) + *offset as u64;
                    address.to_le_bytes().to_vec()
                }
                Parameter::Memory { .. } => return Err(ReplayError::Parameter(place)),
            };
            let (offset, size) = program.parameters[place];
            if value.len() != size {
                return Err(ReplayError::Parameter(place));
            }
            laid[offset..offset + size].copy_from_slice(&value);
        }
        Ok(laid)
    }
}

/// What memory is aligned to, as CubeCL allocates it.
#[derive(Clone, Copy)]
#[repr(C, align(512))]
struct Page([u64; PAGE]);

/// The words of a page.
const PAGE: usize = 64;

/// What a launch may touch.
#[derive(Default)]
struct Memories {
    /// Pages, and how many bytes of them there are for the kernel.
    held: Vec<(Vec<Page>, u64)>,
    numbered: BTreeMap<usize, u64>,
}

impl Memories {
    /// Keeps so many bytes of pages and returns their address.
    fn hold(&mut self, pages: Vec<Page>, bytes: usize) -> u64 {
        let address = pages.as_ptr() as u64;
        self.held.push((pages, bytes as u64));
        address
    }

    fn hold_words(&mut self, words: &[u64]) -> u64 {
        let page = |words: &[u64]| {
            let mut page = Page([0; PAGE]);
            page.0[..words.len()].copy_from_slice(words);
            page
        };
        let pages = words.chunks(PAGE).map(page).collect();
        self.hold(pages, size_of_val(words))
    }

    /// Returns the address of a memory, which the first to ask for it allocates.
    fn numbered(&mut self, number: usize, bytes: usize) -> u64 {
        if let Some(address) = self.numbered.get(&number) {
            return *address;
        }
        let address = self.hold(random_pages(bytes.div_ceil(size_of::<Page>())), bytes);
        self.numbered.insert(number, address);
        address
    }

    fn allocations(&self) -> Allocations {
        let ranges = self.held.iter();
        let ranges = ranges.map(|(pages, bytes)| (pages.as_ptr() as u64, *bytes));
        // SAFETY: the pages are kept as long as `self`, which outlives the launch, and nobody but the kernel touches them.
        unsafe { Allocations::new(ranges) }
    }
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().copied().flat_map(u64::to_le_bytes).collect()
}

/// Returns pages of numbers at random, which repeat after a prime number of pages.
fn random_pages(len: usize) -> Vec<Page> {
    /// The low bits of each half: sign and exponent stay those of a small number.
    const VARIED: u64 = 0x03ff_03ff_03ff_03ff;
    const SMALL: u64 = 0x3800_3800_3800_3800;
    const PERIOD: usize = 1021;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & VARIED | SMALL
    };
    let mut page = || Page(std::array::from_fn(|_| next()));
    let period: Vec<Page> = (0..PERIOD.min(len)).map(|_| page()).collect();
    let mut pages = Vec::with_capacity(len);
    while pages.len() < len {
        let rest = (len - pages.len()).min(period.len());
        pages.extend_from_slice(&period[..rest]);
    }
    pages
}
