//! Products of small matrices in fragments whose layout is the device's own affair (PTX ISA, `wmma`).
//!
//! Here a fragment's elements lie row by row over the lanes, and begin again where a fragment has room for more than the matrix has.

use crate::instruction::form::{Decoded, Form};
use crate::instruction::fragment::{Matrix, bits, element, packed};
use crate::instruction::matrix::shape;
use crate::instruction::moves::SPACES;
use crate::machine::{Fault, Flow, Instruction, Lanes, Mask, Source, Space, Step, WARP};
use crate::syntax::{Register, Type};

/// The sides of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sides {
    rows: usize,
    columns: usize,
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let action = form.needed(&[("load", 0), ("store", 1), ("mma", 2)])?;
    if !form.take("sync") {
        return Err("matrix instructions are `.sync`".to_owned());
    }
    form.ignore(&["aligned"]);
    let [rows, columns, inner] = form.parsed(shape).ok_or("the shape is missing")?;
    if action == 2 {
        return product(form, [rows, columns, inner]);
    }
    let sides = |operand: char| match operand {
        'a' => Sides {
            rows,
            columns: inner,
        },
        'b' => Sides {
            rows: inner,
            columns,
        },
        _ => Sides { rows, columns },
    };
    let operand = form.needed(&[("a", 'a'), ("b", 'b'), ("c", 'c'), ("d", 'd')])?;
    let by_rows = form.needed(&[("row", true), ("col", false)])?;
    let space = form.one_of(SPACES).unwrap_or(Space::Generic);
    let ty = form.ty()?;
    let mut moved = Moved {
        sides: sides(operand),
        by_rows,
        space,
        ty,
        base: Source::Constant(0),
        offset: 0,
        stride: None,
    };
    let to = if action == 0 {
        form.full_registers()?
    } else {
        Vec::new()
    };
    (moved.base, moved.offset) = form.address()?;
    let from = if action == 1 {
        form.sources(ty)?
    } else {
        Vec::new()
    };
    if form.operands_left() > 0 {
        moved.stride = Some(form.source(Type::U32)?);
    }
    if action == 0 {
        Ok(Box::new(Load { moved, to }))
    } else {
        Ok(Box::new(Store { moved, from }))
    }
}

/// A matrix in memory.
struct Moved {
    sides: Sides,
    by_rows: bool,
    space: Space,
    ty: Type,
    base: Source,
    offset: i64,
    /// The elements from one row, or column, to the next.
    stride: Option<Source>,
}

impl Moved {
    /// Returns the address of each element, row by row.
    fn addresses(&self, step: &Step<'_>) -> Vec<u64> {
        let Sides { rows, columns } = self.sides;
        let first = step.read(self.base)[0].wrapping_add_signed(self.offset);
        let stride = match self.stride {
            Some(stride) => step.read(stride)[0] as usize,
            None if self.by_rows => columns,
            None => rows,
        };
        let address = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            let element = if self.by_rows {
                row * stride + column
            } else {
                column * stride + row
            };
            first.wrapping_add((element * self.ty.bytes()) as u64)
        };
        (0..rows * columns).map(address).collect()
    }
}

/// Returns the element that a lane's register holds in a place, of a matrix of `elements`.
fn held(register: usize, packed: usize, at: usize, lane: usize, elements: usize) -> usize {
    ((register * packed + at) * WARP + lane) % elements
}

struct Load {
    moved: Moved,
    to: Vec<Register>,
}

struct Store {
    moved: Moved,
    from: Vec<Source>,
}

impl Instruction for Load {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        let addresses = self.moved.addresses(step);
        let size = self.moved.ty.bytes();
        let mut elements = Vec::with_capacity(addresses.len());
        for part in addresses.chunks(WARP) {
            let mut places = Vec::with_capacity(WARP);
            for (lane, address) in part.iter().enumerate() {
                let mut bytes = [0; 8];
                let (space, address) =
                    step.load(lane, self.moved.space, *address, &mut bytes[..size])?;
                places.push((lane, space, address));
                elements.push(u64::from_le_bytes(bytes));
            }
            step.count(false, &places, size);
        }
        let packed = packed(self.moved.ty);
        for (register, to) in self.to.iter().enumerate() {
            let mut values = [0; WARP];
            for (lane, value) in values.iter_mut().enumerate() {
                for at in 0..packed {
                    let element = elements[held(register, packed, at, lane, elements.len())];
                    *value |= element << (16 * at);
                }
            }
            step.write(*to, &values);
        }
        Ok(Flow::Next)
    }
}

impl Instruction for Store {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        let addresses = self.moved.addresses(step);
        let size = self.moved.ty.bytes();
        let packed = packed(self.moved.ty);
        let mut bytes = vec![[0; 8]; addresses.len()];
        for (register, from) in self.from.iter().enumerate() {
            let values = step.read(*from);
            for (lane, value) in values.iter().enumerate() {
                for at in 0..packed {
                    let element = held(register, packed, at, lane, addresses.len());
                    bytes[element] = (value >> (16 * at)).to_le_bytes();
                }
            }
        }
        for (part, bytes) in addresses.chunks(WARP).zip(bytes.chunks(WARP)) {
            let mut places = Vec::with_capacity(WARP);
            for (lane, (address, bytes)) in part.iter().zip(bytes).enumerate() {
                let (space, address) =
                    step.store(lane, self.moved.space, *address, &bytes[..size])?;
                places.push((lane, space, address));
            }
            step.count(true, &places, size);
        }
        Ok(Flow::Next)
    }
}

struct Product {
    shape: [usize; 3],
    factors: Type,
    sum_in: Type,
    sum_out: Type,
    to: Vec<Register>,
    a: Vec<Source>,
    b: Vec<Source>,
    c: Vec<Source>,
}

fn product(form: &mut Form<'_>, shape: [usize; 3]) -> Decoded {
    // The layouts name how the fragments were loaded, which changes nothing here.
    form.ignore(&["row", "col"]);
    // Of half precision the factors' type is not named.
    let (sum_out, factors, sum_in) = if form.types_left() == 2 {
        (form.ty()?, Type::F16, form.ty()?)
    } else {
        let (sum_out, left, right, sum_in) = (form.ty()?, form.ty()?, form.ty()?, form.ty()?);
        if left != right || !matches!(left, Type::F16 | Type::BF16 | Type::TF32) {
            return Err(format!("products of {left:?} and {right:?} are not here"));
        }
        (sum_out, left, sum_in)
    };
    Ok(Box::new(Product {
        shape,
        factors,
        sum_in,
        sum_out,
        to: form.full_registers()?,
        a: form.sources(factors)?,
        b: form.sources(factors)?,
        c: form.sources(sum_in)?,
    }))
}

/// Puts a fragment's registers together.
fn gathered(sides: Sides, ty: Type, registers: &[Lanes]) -> Matrix {
    let Sides { rows, columns } = sides;
    let mut matrix = Matrix::new(rows, columns);
    let packed = packed(ty);
    for (register, lanes) in registers.iter().enumerate() {
        for (lane, word) in lanes.iter().enumerate() {
            for at in 0..packed {
                let place = held(register, packed, at, lane, rows * columns);
                *matrix.at((place / columns, place % columns)) = element(ty, *word, at);
            }
        }
    }
    matrix
}

impl Instruction for Product {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        step.counters.matrix_products += 1;
        let [rows, columns, inner] = self.shape;
        let [a, b, c] = [&self.a, &self.b, &self.c].map(|from| step.read_all(from));
        let left = Sides {
            rows,
            columns: inner,
        };
        let right = Sides {
            rows: inner,
            columns,
        };
        let both = Sides { rows, columns };
        let mut sum = gathered(both, self.sum_in, &c);
        sum.add_product(
            &mut gathered(left, self.factors, &a),
            &mut gathered(right, self.factors, &b),
        );
        let packed = packed(self.sum_out);
        for (register, to) in self.to.iter().enumerate() {
            let mut values = [0; WARP];
            for (lane, word) in values.iter_mut().enumerate() {
                for at in 0..packed {
                    let place = held(register, packed, at, lane, rows * columns);
                    *word |= bits(
                        self.sum_out,
                        *sum.at((place / columns, place % columns)),
                        at,
                    );
                }
            }
            step.write(*to, &values);
        }
        Ok(Flow::Next)
    }
}
