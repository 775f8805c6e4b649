//! Instructions decoded, and what each does to a warp. A file holds the reading of its instructions and their meaning; the words
//! are those of the PTX ISA.

/// Sums and products with a carry flag.
mod carry;
/// Comparisons and choices.
mod compare;
/// Branches, ends and barriers of a block.
mod control;
/// Changes of type.
mod convert;
/// Arithmetic of floating-point numbers.
mod float;
/// An opcode's modifiers and operands, read one by one.
mod form;
/// Fragments of matrices in the layouts that the ISA gives.
mod fragment;
/// Arithmetic of integers.
mod integer;
/// What is done in each lane apart.
mod lanewise;
/// Bits and bytes within a register.
mod logic;
/// Products of small matrices.
mod matrix;
/// Loads, stores and atomic operations.
mod memory;
/// Moves between registers.
mod moves;
/// Rounding to narrower formats.
mod rounding;
/// Exchange between the lanes of a warp.
mod warp;
/// Products of small matrices in fragments whose layout is the device's own affair.
mod wmma;

pub use form::Symbols;
pub use rounding::{Format, Rounding, rounded};

use crate::machine::Instruction;
use crate::syntax::Statement;
use form::Form;

/// An instruction that this device does not have, or has not in that form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}, line {line} `{statement}`: {reason}")]
pub struct DecodeError {
    /// The kernel.
    pub kernel: String,
    /// The line of the PTX text.
    pub line: usize,
    /// The statement.
    pub statement: String,
    /// What is not known of it.
    pub reason: String,
}

/// Decodes a statement. Every modifier and every operand must have been understood.
///
/// # Errors
/// What is not known of it.
pub fn decode(
    statement: &Statement,
    symbols: &Symbols<'_>,
) -> Result<Box<dyn Instruction>, String> {
    let mut form = Form::new(statement, symbols);
    let instruction = match form.stem() {
        "add" | "sub" | "mad" if form.has("cc") => carry::decode(&mut form),
        "addc" | "subc" | "madc" => carry::decode(&mut form),
        "add" | "sub" | "mul" | "div" | "min" | "max" | "neg" | "abs" | "mad"
            if form.is_float() =>
        {
            float::decode(&mut form)
        }
        "fma" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign"
        | "testp" => float::decode(&mut form),
        "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "neg" | "abs" | "mul24"
        | "mad24" | "sad" | "dp4a" => integer::decode(&mut form),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe"
        | "bfi" | "popc" | "clz" | "brev" | "bfind" => logic::decode(&mut form),
        "setp" | "set" | "selp" | "slct" => compare::decode(&mut form),
        "cvt" => convert::decode(&mut form),
        "mov" | "cvta" | "isspacep" => moves::decode(&mut form),
        "ld" | "ldu" | "st" | "atom" | "red" | "membar" | "fence" => memory::decode(&mut form),
        "bar" | "barrier" if form.has("warp") => warp::decode(&mut form),
        "bra" | "ret" | "exit" | "trap" | "bar" | "barrier" | "nop" | "griddepcontrol" => {
            control::decode(&mut form)
        }
        "shfl" | "vote" | "activemask" | "match" | "redux" | "elect" => warp::decode(&mut form),
        "mma" | "ldmatrix" | "stmatrix" => matrix::decode(&mut form),
        "wmma" => wmma::decode(&mut form),
        other => Err(format!("`{other}` is no instruction of this device")),
    }?;
    form.finish()?;
    Ok(instruction)
}
