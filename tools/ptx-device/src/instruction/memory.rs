//! Loads, stores and atomic operations (PTX ISA, `ld`, `st`, `atom`, `red`).

use crate::instruction::form::{Decoded, Form};
use crate::instruction::moves::SPACES;
use crate::machine::{Fault, Flow, Instruction, Source, Space, Step, WARP, Word};
use crate::syntax::{Register, Type};
use half::{bf16, f16};

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    // Order and caches are of no account: what a block writes, others see at once.
    form.ignore(&[
        "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sc", "cta", "cluster",
        "gpu", "sys", "ca", "cg", "cs", "lu", "cv", "nc", "wb", "wt", "gl", "noftz", "unified",
    ]);
    form.ignore_prefixed(&["L1::", "L2::", "level::"]);
    match form.stem() {
        "ld" | "ldu" => load(form),
        "st" => store(form),
        "membar" | "fence" => Ok(Box::new(Fence)),
        _ => atomic(form),
    }
}

/// `membar` and `fence`
struct Fence;

impl Instruction for Fence {
    fn execute(&self, _: &mut Step<'_>) -> Result<Flow, Fault> {
        Ok(Flow::Next)
    }
}

/// What a load or a store is of.
#[derive(Debug, Clone, Copy)]
struct Access {
    space: Space,
    ty: Type,
    /// How many elements a lane moves.
    elements: usize,
    base: Source,
    offset: i64,
}

/// The most bytes that a lane moves at once.
const MOST_BYTES: usize = 32;

impl Access {
    /// Reads what stands before the operands.
    fn decode(form: &mut Form<'_>) -> Result<Self, String> {
        Ok(Self {
            space: form.one_of(SPACES).unwrap_or(Space::Generic),
            elements: form.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1),
            ty: form.ty()?,
            base: Source::Constant(0),
            offset: 0,
        })
    }

    fn at(self, (base, offset): (Source, i64)) -> Self {
        Self {
            base,
            offset,
            ..self
        }
    }

    fn check(self, found: usize) -> Result<Self, String> {
        if found != self.elements {
            return Err(format!("{found} registers for {} elements", self.elements));
        }
        if self.bytes() > MOST_BYTES || self.ty == Type::B128 && self.elements > 1 {
            return Err(format!("{} bytes a lane", self.bytes()));
        }
        Ok(self)
    }

    /// Returns the bytes that a lane moves.
    fn bytes(self) -> usize {
        self.ty.bytes() * self.elements
    }

    fn address(self, base: u64) -> u64 {
        base.wrapping_add_signed(self.offset)
    }
}

/// `ld`
struct Load {
    access: Access,
    to: Vec<(Option<Register>, Type)>,
}

/// `st`
struct Store {
    access: Access,
    from: Vec<Source>,
}

fn load(form: &mut Form<'_>) -> Decoded {
    let access = Access::decode(form)?;
    let to = form.registers()?;
    let access = access.at(form.address()?).check(to.len())?;
    let declared = |register: Option<Register>| {
        let ty = register.map_or(access.ty, |it| form.type_of(it));
        (register, ty)
    };
    Ok(Box::new(Load {
        access,
        to: to.into_iter().map(declared).collect(),
    }))
}

fn store(form: &mut Form<'_>) -> Decoded {
    let access = Access::decode(form)?;
    let access = access.at(form.address()?);
    let from = form.sources(access.ty)?;
    Ok(Box::new(Store {
        access: access.check(from.len())?,
        from,
    }))
}

impl Instruction for Load {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let Access { space, ty, .. } = self.access;
        let bytes = self.access.bytes();
        let bases = step.read(self.access.base);
        let mut places = Vec::with_capacity(WARP);
        for lane in step.active.lanes() {
            let mut buffer = [0; MOST_BYTES];
            let address = self.access.address(bases[lane]);
            let (space, address) = step.load(lane, space, address, &mut buffer[..bytes])?;
            places.push((lane, space, address));
            for (element, (to, declared)) in buffer.chunks(ty.bytes()).zip(&self.to) {
                let Some(Register(place)) = to else { continue };
                let mut bits = [0; 8];
                let width = element.len().min(8);
                bits[..width].copy_from_slice(&element[..width]);
                let bits = u64::from_le_bytes(bits);
                step.warp.registers[*place][lane] = declared.narrowed(ty.widened(bits));
            }
        }
        step.count(false, &places, bytes);
        Ok(Flow::Next)
    }
}

impl Instruction for Store {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let Access { space, ty, .. } = self.access;
        let bytes = self.access.bytes();
        let bases = step.read(self.access.base);
        let values = step.read_all(&self.from);
        let mut places = Vec::with_capacity(WARP);
        for lane in step.active.lanes() {
            let mut buffer = [0; MOST_BYTES];
            for (element, value) in buffer.chunks_mut(ty.bytes()).zip(&values) {
                let width = element.len().min(8);
                element[..width].copy_from_slice(&value[lane].to_le_bytes()[..width]);
            }
            let address = self.access.address(bases[lane]);
            let (space, address) = step.store(lane, space, address, &buffer[..bytes])?;
            places.push((lane, space, address));
        }
        step.count(true, &places, bytes);
        Ok(Flow::Next)
    }
}

/// What an atomic operation makes of the value there and an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    /// The sum.
    Add,
    /// The lesser.
    Min,
    /// The greater.
    Max,
    /// The common bits.
    And,
    /// The bits of both.
    Or,
    /// The bits of one alone.
    Xor,
    /// The operand.
    Exchange,
    /// One more, or 0 from the operand on.
    Increment,
    /// One less, or the operand from 0 and above it.
    Decrement,
}

/// The modifiers of atomic operations.
pub const ATOMICS: &[(&str, Atomic)] = &[
    ("add", Atomic::Add),
    ("min", Atomic::Min),
    ("max", Atomic::Max),
    ("and", Atomic::And),
    ("or", Atomic::Or),
    ("xor", Atomic::Xor),
    ("exch", Atomic::Exchange),
    ("inc", Atomic::Increment),
    ("dec", Atomic::Decrement),
];

impl Atomic {
    /// Returns the new value of type `ty`.
    pub fn apply(self, ty: Type, there: u64, operand: u64) -> u64 {
        macro_rules! of {
            ($word:ty, $f:expr) => {{
                let f: fn($word, $word) -> $word = $f;
                f(<$word>::of(there), <$word>::of(operand)).bits()
            }};
        }
        match (self, ty) {
            (Self::Add, Type::F32) => of!(f32, |x, y| x + y),
            (Self::Add, Type::F64) => of!(f64, |x, y| x + y),
            (Self::Add, Type::F16) => of!(f16, |x, y| x + y),
            (Self::Add, Type::BF16) => of!(bf16, |x, y| x + y),
            (Self::Add, _) if ty.bytes() == 4 => of!(u32, |x, y| x.wrapping_add(y)),
            (Self::Add, _) => there.wrapping_add(operand),
            (Self::Min, Type::S32) => of!(i32, |x, y| x.min(y)),
            (Self::Max, Type::S32) => of!(i32, |x, y| x.max(y)),
            (Self::Min, Type::S64) => of!(i64, |x, y| x.min(y)),
            (Self::Max, Type::S64) => of!(i64, |x, y| x.max(y)),
            (Self::Min, _) => there.min(operand),
            (Self::Max, _) => there.max(operand),
            (Self::And, _) => there & operand,
            (Self::Or, _) => there | operand,
            (Self::Xor, _) => there ^ operand,
            (Self::Exchange, _) => operand,
            (Self::Increment, _) if there >= operand => 0,
            (Self::Increment, _) => there + 1,
            (Self::Decrement, _) if there == 0 || there > operand => operand,
            (Self::Decrement, _) => there - 1,
        }
    }
}

/// `atom` and `red`
struct AtomicUpdate {
    /// `None`: compare and swap.
    operation: Option<Atomic>,
    ty: Type,
    space: Space,
    to: Option<Register>,
    base: Source,
    offset: i64,
    operands: Vec<Source>,
}

fn atomic(form: &mut Form<'_>) -> Decoded {
    let space = form.one_of(SPACES).unwrap_or(Space::Generic);
    let swaps = form.take("cas");
    let operation = if swaps {
        None
    } else {
        Some(form.needed(ATOMICS)?)
    };
    let ty = form.ty()?;
    if !matches!(ty.bytes(), 2 | 4 | 8) || matches!(ty, Type::F16x2 | Type::BF16x2 | Type::F32x2) {
        return Err(format!("{ty:?} has no atomic operation here"));
    }
    if ty.is_float() && operation != Some(Atomic::Add) {
        return Err(format!("of atomic operations {ty:?} has sums alone"));
    }
    let to = if form.stem() == "atom" {
        form.register_or_nothing()?
    } else {
        None
    };
    let (base, offset) = form.address()?;
    let operands = (0..if swaps { 2 } else { 1 })
        .map(|_| form.source(ty))
        .collect::<Result<_, _>>()?;
    Ok(Box::new(AtomicUpdate {
        operation,
        ty,
        space,
        to,
        base,
        offset,
        operands,
    }))
}

impl Instruction for AtomicUpdate {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let bases = step.read(self.base);
        let operands = step.read_all(&self.operands);
        let keep = |bits: u64| self.ty.narrowed(bits);
        let mut before = [0; WARP];
        for lane in step.active.lanes() {
            let operand = keep(operands[0][lane]);
            let address = bases[lane].wrapping_add_signed(self.offset);
            before[lane] = match self.operation {
                Some(operation) => {
                    step.update(lane, self.space, address, self.ty.bytes(), |there| {
                        operation.apply(self.ty, there, operand)
                    })?
                }
                None => {
                    let new = keep(operands[1][lane]);
                    step.update(lane, self.space, address, self.ty.bytes(), |there| {
                        if there == operand { new } else { there }
                    })?
                }
            };
        }
        if let Some(to) = self.to {
            step.write(to, &before);
        }
        Ok(Flow::Next)
    }
}
