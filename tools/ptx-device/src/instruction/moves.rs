//! Moves between registers (PTX ISA, `mov` and the conversions of addresses).

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{Lanewise, one};
use crate::machine::{Fault, Flow, Instruction, Lanes, Source, Space, Step, WARP};
use crate::syntax::{Register, Type};

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    match form.stem() {
        "mov" => mov(form),
        "cvta" => address(form),
        _ => is_space(form),
    }
}

/// A register cut into others, the first of its lowest bits.
struct Unpack {
    to: Vec<Option<Register>>,
    from: Source,
    /// The width of a part.
    width: usize,
}

fn mov(form: &mut Form<'_>) -> Decoded {
    let ty = form.ty()?;
    let to = form.registers()?;
    let from = form.sources(ty)?;
    match (to.as_slice(), from.as_slice()) {
        ([Some(to)], [from]) => Ok(Box::new(Lanewise {
            to: *to,
            from: vec![*from],
            function: one(move |bits: u64| ty.narrowed(bits)),
        })),
        ([Some(to)], parts) if parts.len() <= 4 => {
            let width = 8 * ty.bytes() / parts.len();
            let mask = u64::MAX >> (64 - width);
            Ok(Box::new(Lanewise {
                to: *to,
                from: parts.to_vec(),
                function: Box::new(move |from: &[Lanes]| {
                    let mut whole = [0; WARP];
                    for (place, part) in from.iter().enumerate() {
                        for (whole, bits) in whole.iter_mut().zip(part) {
                            *whole |= (bits & mask) << (place * width);
                        }
                    }
                    whole
                }),
            }))
        }
        (parts, [from]) => Ok(Box::new(Unpack {
            width: 8 * ty.bytes() / parts.len(),
            to: parts.to_vec(),
            from: *from,
        })),
        _ => Err("neither one destination nor one source".to_owned()),
    }
}

impl Instruction for Unpack {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let whole = step.read(self.from);
        let mask = u64::MAX >> (64 - self.width);
        for (place, to) in self.to.iter().enumerate() {
            if let Some(to) = to {
                let part = whole.map(|bits| bits >> (place * self.width) & mask);
                step.write(*to, &part);
            }
        }
        Ok(Flow::Next)
    }
}

/// The modifiers of spaces.
pub const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("const", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Parameter),
    ("param::entry", Space::Parameter),
];

/// `cvta`: between generic addresses and those of a space.
fn address(form: &mut Form<'_>) -> Decoded {
    let to_space = form.take("to");
    let space = form.needed(SPACES)?;
    if space == Space::Parameter {
        return Err("parameters have no generic addresses here".to_owned());
    }
    let ty = form.ty()?;
    let window = space.window();
    let function = if to_space {
        one(move |address: u64| address - window.min(address))
    } else {
        one(move |address: u64| address + window)
    };
    form.lanewise(1, ty, function)
}

/// `isspacep`: whether a generic address lies in a space.
fn is_space(form: &mut Form<'_>) -> Decoded {
    let space = form.needed(SPACES)?;
    let function = one(move |address: u64| Space::Generic.resolve(address).0 == space);
    form.lanewise(1, Type::U64, function)
}
