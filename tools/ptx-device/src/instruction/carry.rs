//! Sums and products with a carry flag (PTX ISA, "Extended-Precision Integer Arithmetic Instructions").

use crate::instruction::form::{Decoded, Form};
use crate::machine::{Fault, Flow, Instruction, Mask, Source, Step, WARP};
use crate::syntax::{Register, Type};

/// What is added up with the carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Sub,
    /// The lower or the upper half of a product, and an addend.
    Mad {
        high: bool,
    },
}

/// One of them.
struct Carry {
    operation: Operation,
    ty: Type,
    /// Whether the flag is added.
    reads: bool,
    /// Whether the flag is set.
    sets: bool,
    to: Register,
    from: [Source; 3],
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    let sets = form.take("cc");
    let operation = match stem {
        "add" | "addc" => Operation::Add,
        "sub" | "subc" => Operation::Sub,
        _ => Operation::Mad {
            high: form.needed(&[("lo", false), ("hi", true)])?,
        },
    };
    let ty = form.ty()?;
    if !matches!(
        ty,
        Type::B32 | Type::U32 | Type::S32 | Type::B64 | Type::U64 | Type::S64
    ) {
        return Err("a carry is of 32 or 64 bits".to_owned());
    }
    let to = form.register()?;
    let mut from = [Source::Constant(0); 3];
    let sources = if matches!(operation, Operation::Mad { .. }) {
        3
    } else {
        2
    };
    for source in &mut from[..sources] {
        *source = form.source(ty)?;
    }
    Ok(Box::new(Carry {
        operation,
        ty,
        reads: stem.ends_with('c'),
        sets,
        to,
        from,
    }))
}

impl Carry {
    /// Returns the sum and the carry out of one lane.
    fn sum(&self, [a, b, c]: [u64; 3], carry: bool) -> (u64, bool) {
        let width = 8 * self.ty.bytes();
        let keep = |bits: u64| u128::from(self.ty.narrowed(bits));
        let signed = |bits: u64| i128::from(self.ty.widened(bits).cast_signed());
        let carry = u128::from(carry);
        let whole = match self.operation {
            Operation::Add => keep(a) + keep(b) + carry,
            // The flag of a difference is its borrow.
            Operation::Sub => keep(a).wrapping_sub(keep(b)).wrapping_sub(carry),
            Operation::Mad { high } => {
                let product = if self.ty.is_signed() {
                    (signed(a) * signed(b)).cast_unsigned()
                } else {
                    keep(a) * keep(b)
                };
                let half = if high { product >> width } else { product };
                keep(half as u64) + keep(c) + carry
            }
        };
        (keep(whole as u64) as u64, whole >> width & 1 == 1)
    }
}

impl Instruction for Carry {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let from = self.from.map(|source| step.read(source));
        let mut sums = [0; WARP];
        let mut carries = Mask::default();
        for lane in step.active.lanes() {
            let carry = self.reads && step.warp.carry.has(lane);
            let (sum, out) = self.sum(from.map(|values| values[lane]), carry);
            sums[lane] = sum;
            carries.0 |= u32::from(out) << lane;
        }
        if self.sets {
            step.warp.carry = step.warp.carry.without(step.active).or(carries);
        }
        step.write(self.to, &sums);
        Ok(Flow::Next)
    }
}
