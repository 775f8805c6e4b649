//! An opcode's modifiers and operands, read one by one.

use crate::instruction::lanewise::{Function, Lanewise};
use crate::machine::{Instruction, Source};
use crate::syntax::{Operand, Register, Statement, Type};
use std::collections::HashMap;

/// What the names in a kernel stand for.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    /// The addresses of variables and parameters, each in its space.
    pub addresses: &'a HashMap<String, u64>,
    /// The statement behind each label.
    pub labels: &'a HashMap<String, usize>,
    /// The types of the registers.
    pub registers: &'a [Type],
}

/// A decoded instruction, or what is not known of it.
pub type Decoded = Result<Box<dyn Instruction>, String>;

/// A statement on its way to an instruction. What is read is taken off; [`finish`](Self::finish) refuses what is left.
pub struct Form<'a> {
    stem: &'a str,
    modifiers: Vec<&'a str>,
    types: Vec<Type>,
    types_read: usize,
    operands: &'a [Operand],
    symbols: &'a Symbols<'a>,
}

impl<'a> Form<'a> {
    /// Begins with a statement.
    pub fn new(statement: &'a Statement, symbols: &'a Symbols<'a>) -> Self {
        let mut parts = statement.opcode.split('.');
        let stem = parts.next().unwrap_or_default();
        let (types, modifiers) = parts.partition::<Vec<_>, _>(|part| Type::named(part).is_some());
        Self {
            stem,
            modifiers,
            types: types.into_iter().filter_map(Type::named).collect(),
            types_read: 0,
            operands: &statement.operands,
            symbols,
        }
    }

    /// Returns the opcode without its modifiers.
    pub fn stem(&self) -> &'a str {
        self.stem
    }

    /// Returns whether a modifier is there that nobody has read.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// Returns whether the last type is one of floating-point numbers.
    pub fn is_float(&self) -> bool {
        self.types.last().is_some_and(|ty| ty.is_float())
    }

    /// Reads a modifier, and returns whether it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        let place = self.modifiers.iter().position(|known| *known == modifier);
        place.map(|place| self.modifiers.remove(place)).is_some()
    }

    /// Reads one of several modifiers that exclude each other, and returns what it stands for.
    pub fn one_of<T: Copy>(&mut self, known: &[(&str, T)]) -> Option<T> {
        known
            .iter()
            .find(|(modifier, _)| self.take(modifier))
            .map(|(_, meaning)| *meaning)
    }

    /// As [`one_of`](Self::one_of), where one must be there.
    ///
    /// # Errors
    /// The modifiers that are there.
    pub fn needed<T: Copy>(&mut self, known: &[(&str, T)]) -> Result<T, String> {
        self.one_of(known)
            .ok_or_else(|| format!("`.{}` is not known", self.modifiers.join(".")))
    }

    /// Reads modifiers that change nothing here, such as hints to a cache.
    pub fn ignore(&mut self, modifiers: &[&str]) {
        self.modifiers
            .retain(|modifier| !modifiers.contains(modifier));
    }

    /// Reads modifiers that begin with one of these words and change nothing here.
    pub fn ignore_prefixed(&mut self, prefixes: &[&str]) {
        self.modifiers
            .retain(|modifier| !prefixes.iter().any(|prefix| modifier.starts_with(prefix)));
    }

    /// Reads a modifier of the form that `parse` understands.
    pub fn parsed<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = self
            .modifiers
            .iter()
            .enumerate()
            .find_map(|(place, modifier)| Some((place, parse(modifier)?)));
        found.map(|(place, value)| {
            self.modifiers.remove(place);
            value
        })
    }

    /// Reads the next type.
    ///
    /// # Errors
    /// If there is none.
    pub fn ty(&mut self) -> Result<Type, String> {
        let ty = self.types.get(self.types_read).copied();
        self.types_read += 1;
        ty.ok_or_else(|| {
            format!(
                "a type is missing, or `.{}` is not known",
                self.modifiers.join(".")
            )
        })
    }

    /// Returns how many types there are that nobody has read.
    pub fn types_left(&self) -> usize {
        self.types.len() - self.types_read
    }

    /// Returns how many operands there are that nobody has read.
    pub fn operands_left(&self) -> usize {
        self.operands.len()
    }

    /// Reads the next operand.
    ///
    /// # Errors
    /// If there is none.
    pub fn operand(&mut self) -> Result<&'a Operand, String> {
        let (first, rest) = self.operands.split_first().ok_or("an operand is missing")?;
        self.operands = rest;
        Ok(first)
    }

    /// Reads a register.
    ///
    /// # Errors
    /// Another operand.
    pub fn register(&mut self) -> Result<Register, String> {
        let operand = self.operand()?;
        register_in(operand)
    }

    /// Reads a register or `_`.
    ///
    /// # Errors
    /// Another operand.
    pub fn register_or_nothing(&mut self) -> Result<Option<Register>, String> {
        register_or_nothing_in(self.operand()?)
    }

    /// Returns the type that a register was declared with.
    pub fn type_of(&self, register: Register) -> Type {
        self.symbols.registers[register.0]
    }

    /// Reads a register or a vector of them, some of which may be `_`.
    ///
    /// # Errors
    /// Another operand.
    pub fn registers(&mut self) -> Result<Vec<Option<Register>>, String> {
        match self.operands.first() {
            Some(Operand::Vector(elements)) => {
                let registers = elements
                    .iter()
                    .map(register_or_nothing_in)
                    .collect::<Result<_, _>>()?;
                self.operand()?;
                Ok(registers)
            }
            _ => Ok(vec![self.register_or_nothing()?]),
        }
    }

    /// Reads a vector of registers, all of which are there.
    ///
    /// # Errors
    /// Another operand.
    pub fn full_registers(&mut self) -> Result<Vec<Register>, String> {
        let registers = self.registers()?.into_iter().collect::<Option<_>>();
        registers.ok_or_else(|| "`_` is no register of a fragment".to_owned())
    }

    /// Reads a pair `a|b` of registers, or one.
    ///
    /// # Errors
    /// Another operand.
    pub fn register_pair(&mut self) -> Result<(Option<Register>, Option<Register>), String> {
        match self.operand()? {
            Operand::Pair(first, second) => Ok((
                register_or_nothing_in(first)?,
                register_or_nothing_in(second)?,
            )),
            other => Ok((register_or_nothing_in(other)?, None)),
        }
    }

    /// Reads a value that is taken as of type `ty`.
    ///
    /// # Errors
    /// An operand that is no value.
    pub fn source(&mut self, ty: Type) -> Result<Source, String> {
        let operand = self.operand()?;
        self.source_in(operand, ty)
    }

    /// Reads a value or a vector of them.
    ///
    /// # Errors
    /// An operand that is no value.
    pub fn sources(&mut self, ty: Type) -> Result<Vec<Source>, String> {
        match self.operand()? {
            Operand::Vector(elements) => elements
                .iter()
                .map(|element| self.source_in(element, ty))
                .collect(),
            other => Ok(vec![self.source_in(other, ty)?]),
        }
    }

    /// Reads a predicate, and whether it is negated.
    ///
    /// # Errors
    /// Another operand.
    pub fn predicate(&mut self) -> Result<(Source, bool), String> {
        match self.operand()? {
            Operand::Not(register) => Ok((Source::Register(*register), true)),
            other => Ok((self.source_in(other, Type::Pred)?, false)),
        }
    }

    /// Reads a number that stands in the text.
    ///
    /// # Errors
    /// Another operand.
    pub fn number(&mut self) -> Result<u64, String> {
        match self.operand()? {
            Operand::Integer(value) => Ok(*value),
            other => Err(format!("{other:?} is no number")),
        }
    }

    /// Reads `[base + offset]`.
    ///
    /// # Errors
    /// Another operand.
    pub fn address(&mut self) -> Result<(Source, i64), String> {
        match self.operand()? {
            Operand::Address(base, offset) => Ok((self.source_in(base, Type::U64)?, *offset)),
            other => Err(format!("{other:?} is no address")),
        }
    }

    /// Reads a label, and returns the statement behind it.
    ///
    /// # Errors
    /// Another operand, a label that is not there.
    pub fn label(&mut self) -> Result<usize, String> {
        match self.operand()? {
            Operand::Symbol(name) => {
                let target = self.symbols.labels.get(name).copied();
                target.ok_or_else(|| format!("there is no label `{name}`"))
            }
            other => Err(format!("{other:?} is no label")),
        }
    }

    fn source_in(&self, operand: &Operand, ty: Type) -> Result<Source, String> {
        Ok(match operand {
            Operand::Register(register) => Source::Register(*register),
            Operand::Special(register) => Source::Special(*register),
            Operand::Integer(value) => Source::Constant(*value),
            Operand::Single(bits) if ty == Type::F64 => {
                Source::Constant(f64::from(f32::from_bits(*bits)).to_bits())
            }
            Operand::Single(bits) => Source::Constant((*bits).into()),
            Operand::Double(bits) if ty == Type::F32 => {
                Source::Constant((f64::from_bits(*bits) as f32).to_bits().into())
            }
            Operand::Double(bits) => Source::Constant(*bits),
            Operand::Symbol(name) => {
                let address = self.symbols.addresses.get(name).copied();
                Source::Constant(address.ok_or_else(|| format!("`{name}` is not known"))?)
            }
            other => return Err(format!("{other:?} is no value")),
        })
    }

    /// Reads a destination and `sources` values of type `ty`, and returns the instruction that applies `function` to them.
    ///
    /// # Errors
    /// Operands of another kind.
    pub fn lanewise(&mut self, sources: usize, ty: Type, function: Function) -> Decoded {
        let to = self.register()?;
        let from = (0..sources)
            .map(|_| self.source(ty))
            .collect::<Result<_, _>>()?;
        Ok(Box::new(Lanewise { to, from, function }))
    }

    /// Refuses what nobody has read.
    ///
    /// # Errors
    /// Its name.
    pub fn finish(&self) -> Result<(), String> {
        if !self.modifiers.is_empty() {
            return Err(format!("`.{}` is not known", self.modifiers.join(".")));
        }
        if self.types_read < self.types.len() {
            return Err("there is a type more than this device knows of".to_owned());
        }
        match self.operands.first() {
            Some(operand) => Err(format!("nothing reads {operand:?}")),
            None => Ok(()),
        }
    }
}

fn register_in(operand: &Operand) -> Result<Register, String> {
    match operand {
        Operand::Register(register) => Ok(*register),
        other => Err(format!("{other:?} is no register")),
    }
}

fn register_or_nothing_in(operand: &Operand) -> Result<Option<Register>, String> {
    match operand {
        Operand::Nothing => Ok(None),
        other => register_in(other).map(Some),
    }
}
