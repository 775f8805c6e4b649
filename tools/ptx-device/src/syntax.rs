//! PTX as text: modules, kernels, statements, operands.

/// Variables and kernels of a module, and the statements of a kernel's body.
mod module;
/// What an instruction reads and writes.
mod operand;
/// The text in words and signs.
mod token;
/// The fundamental types.
mod types;

pub use module::{Entry, Module, Parameter, Statement, Variable, VariableSpace};
pub use operand::{Guard, Operand, Register, SpecialRegister};
pub use types::Type;

/// Text that is not PTX as this device reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {reason}")]
pub struct SyntaxError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}
