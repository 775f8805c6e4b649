//! Products of small matrices (PTX ISA, `mma`, `ldmatrix`, `stmatrix`).

use crate::instruction::form::{Decoded, Form};
use crate::instruction::fragment::{Matrix, Operand, packed};
use crate::machine::{Fault, Flow, Instruction, Mask, Source, Space, Step, WARP};
use crate::syntax::{Register, Type};

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    if !form.take("sync") {
        return Err("matrix instructions are `.sync`".to_owned());
    }
    form.ignore(&["aligned"]);
    match form.stem() {
        "mma" => product(form),
        "ldmatrix" => {
            let moved = Moved::decode(form)?;
            let to = form.full_registers()?;
            let (base, offset) = form.address()?;
            moved.check(to.len())?;
            Ok(Box::new(LoadMatrix {
                moved,
                to,
                base,
                offset,
            }))
        }
        _ => {
            let moved = Moved::decode(form)?;
            let (base, offset) = form.address()?;
            let from = form.sources(Type::B32)?;
            moved.check(from.len())?;
            Ok(Box::new(StoreMatrix {
                moved,
                from,
                base,
                offset,
            }))
        }
    }
}

/// Reads `m16n8k16`.
pub fn shape(modifier: &str) -> Option<[usize; 3]> {
    let (rows, rest) = modifier.strip_prefix('m')?.split_once('n')?;
    let (columns, inner) = rest.split_once('k')?;
    Some([
        rows.parse().ok()?,
        columns.parse().ok()?,
        inner.parse().ok()?,
    ])
}

/// `mma`
struct Product {
    inner: usize,
    factors: Type,
    sum_in: Type,
    sum_out: Type,
    to: Vec<Register>,
    a: Vec<Source>,
    b: Vec<Source>,
    c: Vec<Source>,
}

const ROWS: usize = 16;
const COLUMNS: usize = 8;

fn product(form: &mut Form<'_>) -> Decoded {
    let Some([ROWS, COLUMNS, inner]) = form.parsed(shape) else {
        return Err("of matrix products only m16n8 are here".to_owned());
    };
    if !(form.take("row") && form.take("col")) {
        return Err("A is `.row` and B is `.col`".to_owned());
    }
    let (sum_out, factors, right, sum_in) = (form.ty()?, form.ty()?, form.ty()?, form.ty()?);
    let known = match factors {
        Type::F16 | Type::BF16 => matches!(inner, 8 | 16),
        Type::TF32 => matches!(inner, 4 | 8),
        _ => false,
    };
    let sums_fit = |ty: Type| ty == Type::F32 || ty == Type::F16 && factors == Type::F16;
    if !known || right != factors || !sums_fit(sum_in) || !sums_fit(sum_out) {
        return Err(format!(
            "k{inner} of {factors:?} into {sum_out:?} is not here"
        ));
    }
    let to = form.full_registers()?;
    let a = form.sources(factors)?;
    let b = form.sources(factors)?;
    let c = form.sources(sum_in)?;
    let registers = |elements: usize, ty: Type| elements / WARP / packed(ty);
    let expected = [
        registers(ROWS * COLUMNS, sum_out),
        registers(ROWS * inner, factors),
        registers(inner * COLUMNS, factors),
        registers(ROWS * COLUMNS, sum_in),
    ];
    if [to.len(), a.len(), b.len(), c.len()] != expected {
        return Err(format!("the fragments have {expected:?} registers"));
    }
    Ok(Box::new(Product {
        inner,
        factors,
        sum_in,
        sum_out,
        to,
        a,
        b,
        c,
    }))
}

impl Instruction for Product {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        step.counters.matrix_products += 1;
        let [a, b, c] = [&self.a, &self.b, &self.c].map(|from| step.read_all(from));
        let mut a = Matrix::gathered(ROWS, self.inner, Operand::A, self.factors, &a);
        let mut b = Matrix::gathered(self.inner, COLUMNS, Operand::B, self.factors, &b);
        let mut sum = Matrix::gathered(ROWS, COLUMNS, Operand::C, self.sum_in, &c);
        sum.add_product(&mut a, &mut b);
        let registers = sum.scattered(self.sum_out, self.to.len());
        for (to, values) in self.to.iter().zip(registers) {
            step.write(*to, &values);
        }
        Ok(Flow::Next)
    }
}

/// What `ldmatrix` and `stmatrix` move: up to four matrices of 8 by 8 elements of 16 bits.
struct Moved {
    matrices: usize,
    transposed: bool,
    space: Space,
}

/// Rows of such a matrix, and columns.
const SIDE: usize = 8;
/// A row of it in bytes.
const ROW_BYTES: usize = 2 * SIDE;

impl Moved {
    fn decode(form: &mut Form<'_>) -> Result<Self, String> {
        form.needed(&[("m8n8", ())])?;
        let matrices = form.needed(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
        let transposed = form.take("trans");
        let space = form
            .one_of(&[("shared", Space::Shared), ("shared::cta", Space::Shared)])
            .unwrap_or(Space::Generic);
        match form.ty()? {
            Type::B16 => Ok(Self {
                matrices,
                transposed,
                space,
            }),
            other => Err(format!("matrices of {other:?} are not moved here")),
        }
    }

    fn check(&self, registers: usize) -> Result<(), String> {
        if registers == self.matrices {
            Ok(())
        } else {
            Err(format!("{} matrices take as many registers", self.matrices))
        }
    }

    /// Returns the row and column of an element that a lane holds.
    fn place(&self, lane: usize, element: usize) -> (usize, usize) {
        let (row, column) = (lane / 4, 2 * (lane % 4) + element);
        if self.transposed {
            (column, row)
        } else {
            (row, column)
        }
    }
}

struct LoadMatrix {
    moved: Moved,
    to: Vec<Register>,
    base: Source,
    offset: i64,
}

struct StoreMatrix {
    moved: Moved,
    from: Vec<Source>,
    base: Source,
    offset: i64,
}

impl Instruction for LoadMatrix {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        let bases = step.read(self.base);
        let mut places = Vec::with_capacity(WARP);
        for (matrix, to) in self.to.iter().enumerate() {
            let mut rows = [[0; ROW_BYTES]; SIDE];
            for (row, bytes) in rows.iter_mut().enumerate() {
                // The lanes of a matrix give its rows' addresses.
                let lane = SIDE * matrix + row;
                let address = bases[lane].wrapping_add_signed(self.offset);
                let (space, address) = step.load(lane, self.moved.space, address, bytes)?;
                places.push((lane, space, address));
            }
            let mut values = [0; WARP];
            for (lane, value) in values.iter_mut().enumerate() {
                for element in 0..2 {
                    let (row, column) = self.moved.place(lane, element);
                    let bytes = [rows[row][2 * column], rows[row][2 * column + 1]];
                    *value |= u64::from(u16::from_le_bytes(bytes)) << (16 * element);
                }
            }
            step.write(*to, &values);
        }
        step.count(false, &places, ROW_BYTES);
        Ok(Flow::Next)
    }
}

impl Instruction for StoreMatrix {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.require(Mask::ALL)?;
        let bases = step.read(self.base);
        let mut places = Vec::with_capacity(WARP);
        for (matrix, from) in self.from.iter().enumerate() {
            let values = step.read(*from);
            let mut rows = [[0; ROW_BYTES]; SIDE];
            for (lane, value) in values.iter().enumerate() {
                for element in 0..2 {
                    let (row, column) = self.moved.place(lane, element);
                    let bytes = ((value >> (16 * element)) as u16).to_le_bytes();
                    rows[row][2 * column..2 * column + 2].copy_from_slice(&bytes);
                }
            }
            for (row, bytes) in rows.iter().enumerate() {
                let lane = SIDE * matrix + row;
                let address = bases[lane].wrapping_add_signed(self.offset);
                let (space, address) = step.store(lane, self.moved.space, address, bytes)?;
                places.push((lane, space, address));
            }
        }
        step.count(true, &places, ROW_BYTES);
        Ok(Flow::Next)
    }
}
