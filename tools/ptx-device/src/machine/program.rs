//! A kernel ready to run.

use crate::instruction::{self, DecodeError, Symbols};
use crate::machine::fault::Fault;
use crate::machine::step::Step;
use crate::syntax::{Entry, Guard, Register, SpecialRegister, Variable, VariableSpace};
use std::collections::HashMap;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Register(Register),
    /// The same bits in every lane.
    Constant(u64),
    /// A register that the device fills.
    Special(SpecialRegister),
}

/// What a warp does after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Goes on behind it.
    Next,
    /// The lanes that took part go on at that statement.
    Jump(usize),
    /// The lanes that took part have ended.
    Exit,
    /// The lanes wait for all others of their block.
    Wait,
}

/// What an instruction does to a warp.
pub trait Instruction: Send + Sync {
    /// Executes it for the lanes that take part.
    ///
    /// # Errors
    /// What the kernel may not do.
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault>;
}

/// An instruction with what stands around it.
pub struct Decoded {
    /// The lanes that take part.
    pub guard: Option<Guard>,
    /// What they do.
    pub instruction: Box<dyn Instruction>,
    /// The opcode's place among [`Program::opcodes`].
    pub opcode: usize,
    /// The line of the text.
    pub line: usize,
    /// The text.
    pub text: String,
}

/// A kernel ready to run.
pub struct Program {
    /// The kernel's name.
    pub name: String,
    /// Its instructions.
    pub code: Vec<Decoded>,
    /// The opcodes that occur.
    pub opcodes: Vec<String>,
    /// The number of its registers.
    pub registers: usize,
    /// The offset and size of each parameter in bytes.
    pub parameters: Vec<(usize, usize)>,
    /// The size of all parameters in bytes.
    pub parameter_bytes: usize,
    /// The size of its own shared memory in bytes, behind which the launch's begins.
    pub shared_bytes: usize,
    /// The size of a lane's own memory in bytes.
    pub local_bytes: usize,
}

/// What dynamic shared memory is aligned to in bytes.
const DYNAMIC_ALIGNMENT: usize = 128;

impl Program {
    /// Decodes a kernel. `globals` are the addresses of the module's variables in global memory.
    ///
    /// # Errors
    /// The first instruction that this device does not have, or has not in that form.
    pub fn new(entry: &Entry, globals: &HashMap<String, u64>) -> Result<Self, DecodeError> {
        let mut addresses = globals.clone();
        let mut parameters = Vec::new();
        let mut parameter_bytes: usize = 0;
        for parameter in &entry.parameters {
            let offset = parameter_bytes.next_multiple_of(parameter.align);
            addresses.insert(parameter.name.clone(), offset as u64);
            parameters.push((offset, parameter.bytes));
            parameter_bytes = offset + parameter.bytes;
        }
        let mut lay = |space| laid_out(&entry.variables, space, &mut addresses);
        let local_bytes = lay(VariableSpace::Local);
        let shared_bytes = lay(VariableSpace::Shared).next_multiple_of(DYNAMIC_ALIGNMENT);
        for variable in &entry.variables {
            if variable.space == VariableSpace::DynamicShared {
                addresses.insert(variable.name.clone(), shared_bytes as u64);
            }
        }
        let symbols = Symbols {
            addresses: &addresses,
            labels: &entry.labels,
            registers: &entry.registers,
        };
        let mut opcodes: Vec<String> = Vec::new();
        let mut code = Vec::with_capacity(entry.statements.len());
        for statement in &entry.statements {
            let known = opcodes
                .iter()
                .position(|opcode| *opcode == statement.opcode);
            let opcode = known.unwrap_or_else(|| {
                opcodes.push(statement.opcode.clone());
                opcodes.len() - 1
            });
            code.push(Decoded {
                guard: statement.guard,
                instruction: instruction::decode(statement, &symbols).map_err(|reason| {
                    DecodeError {
                        kernel: entry.name.clone(),
                        line: statement.line,
                        statement: statement.text.clone(),
                        reason,
                    }
                })?,
                opcode,
                line: statement.line,
                text: statement.text.clone(),
            });
        }
        Ok(Self {
            name: entry.name.clone(),
            code,
            opcodes,
            registers: entry.registers.len(),
            parameters,
            parameter_bytes,
            shared_bytes,
            local_bytes,
        })
    }
}

/// Lays the variables of a space one behind the other, notes their addresses, and returns their size together.
fn laid_out(
    variables: &[Variable],
    space: VariableSpace,
    addresses: &mut HashMap<String, u64>,
) -> usize {
    let mut end: usize = 0;
    for variable in variables.iter().filter(|variable| variable.space == space) {
        let begin = end.next_multiple_of(variable.align.max(1));
        addresses.insert(variable.name.clone(), begin as u64);
        end = begin + variable.bytes;
    }
    end
}
