//! Modules, kernels and the statements of a body.

use crate::syntax::operand::{Guard, Operand, Register, SpecialRegister, literal};
use crate::syntax::token::{Token, tokens};
use crate::syntax::{SyntaxError, Type};
use std::collections::HashMap;

/// A module: its kernels and the variables they share.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// The kernels, by name.
    pub entries: HashMap<String, Entry>,
    /// Variables outside of any kernel, in order.
    pub variables: Vec<Variable>,
}

/// A kernel.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Variables declared in its body.
    pub variables: Vec<Variable>,
    /// The types of its registers; a [`Register`] is a place in this list.
    pub registers: Vec<Type>,
    /// Its instructions, in order.
    pub statements: Vec<Statement>,
    /// The statement that a label stands before.
    pub labels: HashMap<String, usize>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its alignment in bytes.
    pub align: usize,
}

/// Where a variable lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableSpace {
    /// `.global`, and `.const`, which is read in the same way.
    Global,
    /// `.shared`
    Shared,
    /// `.extern .shared`: of the size that the launch says.
    DynamicShared,
    /// `.local`
    Local,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Where it lies.
    pub space: VariableSpace,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its first bytes; the others are 0.
    pub initial: Vec<u8>,
}

/// An instruction as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The lanes that take part.
    pub guard: Option<Guard>,
    /// The opcode with its modifiers.
    pub opcode: String,
    /// The operands, the destination first.
    pub operands: Vec<Operand>,
    /// All of it as text.
    pub text: String,
    /// Its line in the text, counted from 1.
    pub line: usize,
}

impl Module {
    /// Reads a module.
    ///
    /// # Errors
    /// The first line that is not understood. Device functions are skipped: whoever calls one is refused.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let tokens = tokens(text)?;
        let mut cursor = Cursor {
            tokens: &tokens,
            at: 0,
        };
        let mut module = Self::default();
        while let Some(token) = cursor.peek() {
            match token.text {
                ".version" | ".target" | ".address_size" | ".file" => cursor.skip_line(),
                ".section" => {
                    cursor.skip_to("{")?;
                    cursor.skip_block()?;
                }
                ".pragma" => cursor.skip_statement()?,
                ";" => cursor.at += 1,
                _ => cursor.declaration(&mut module)?,
            }
        }
        Ok(module)
    }
}

impl Entry {
    /// Returns the place of a register of `types` type, made where the body declares it.
    fn declare(&mut self, ty: Type) -> Register {
        self.registers.push(ty);
        Register(self.registers.len() - 1)
    }
}

/// The words that a declaration begins with.
#[derive(Default)]
struct Qualifiers {
    words: Vec<String>,
    ty: Option<Type>,
    align: Option<usize>,
}

impl Qualifiers {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }
}

/// The names of registers, a map for each scope, the innermost last.
#[derive(Default)]
struct Names(Vec<HashMap<String, Register>>);

impl Names {
    fn get(&self, name: &str) -> Option<Register> {
        self.0
            .iter()
            .rev()
            .find_map(|scope| scope.get(name))
            .copied()
    }

    fn insert(&mut self, name: String, register: Register) {
        if let Some(innermost) = self.0.last_mut() {
            innermost.insert(name, register);
        }
    }
}

struct Cursor<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn is_at(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.text == text)
    }

    fn next(&mut self) -> Result<Token<'a>, SyntaxError> {
        let token = self.peek().ok_or_else(|| self.error("the text ends"))?;
        self.at += 1;
        Ok(token)
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.is_at(text);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), SyntaxError> {
        if self.take(text) {
            Ok(())
        } else {
            let found = self.peek().map_or("the end", |token| token.text);
            Err(self.error(format!("`{text}` expected, not `{found}`")))
        }
    }

    fn error(&self, reason: impl Into<String>) -> SyntaxError {
        let near = self.tokens.get(self.at).or(self.tokens.last());
        SyntaxError {
            line: near.map_or(1, |token| token.line),
            reason: reason.into(),
        }
    }

    fn skip_line(&mut self) {
        let line = self.peek().map(|token| token.line);
        while self.peek().map(|token| token.line) == line && line.is_some() {
            self.at += 1;
        }
    }

    fn skip_to(&mut self, text: &str) -> Result<(), SyntaxError> {
        while !self.is_at(text) {
            self.next()?;
        }
        Ok(())
    }

    fn skip_statement(&mut self) -> Result<(), SyntaxError> {
        self.skip_to(";")?;
        self.at += 1;
        Ok(())
    }

    /// Skips from a brace to its partner.
    fn skip_block(&mut self) -> Result<(), SyntaxError> {
        let mut depth = 0;
        loop {
            match self.next()?.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn number(&mut self) -> Result<u64, SyntaxError> {
        let token = self.next()?;
        match literal(token.text) {
            Some(Operand::Integer(value)) => Ok(value),
            _ => Err(self.error(format!("a number expected, not `{}`", token.text))),
        }
    }

    fn size(&mut self) -> Result<usize, SyntaxError> {
        let number = self.number()?;
        usize::try_from(number).map_err(|_| self.error(format!("{number} is too large")))
    }

    /// Reads `.visible .entry name(…) {…}` or a variable of the module.
    fn declaration(&mut self, module: &mut Module) -> Result<(), SyntaxError> {
        let begin = self.at;
        let qualifiers = self.qualifiers()?;
        if qualifiers.has(".entry") {
            let entry = self.entry(module)?;
            module.entries.insert(entry.name.clone(), entry);
            return Ok(());
        }
        if qualifiers.has(".func") {
            while !self.is_at("{") && !self.is_at(";") {
                self.next()?;
            }
            return if self.is_at("{") {
                self.skip_block()
            } else {
                self.skip_statement()
            };
        }
        if qualifiers.words.is_empty() {
            self.at = begin;
            let found = self.next()?.text;
            return Err(self.error(format!("`{found}` begins no declaration")));
        }
        let variable = self.variable(&qualifiers)?;
        module.variables.push(variable);
        Ok(())
    }

    /// Reads the words before a name.
    fn qualifiers(&mut self) -> Result<Qualifiers, SyntaxError> {
        let mut found = Qualifiers::default();
        while let Some(token) = self.peek().filter(|token| token.text.starts_with('.')) {
            self.at += 1;
            if token.text == ".align" {
                found.align = Some(self.size()?);
            } else if let Some(ty) = Type::named(&token.text[1..]) {
                found.ty = Some(ty);
            } else {
                found.words.push(token.text.to_owned());
            }
        }
        Ok(found)
    }

    /// Reads `name[4] = {1, 2};` after its qualifiers.
    fn variable(&mut self, qualifiers: &Qualifiers) -> Result<Variable, SyntaxError> {
        let space = match qualifiers {
            words if words.has(".shared") && words.has(".extern") => VariableSpace::DynamicShared,
            words if words.has(".shared") => VariableSpace::Shared,
            words if words.has(".local") => VariableSpace::Local,
            words if words.has(".global") || words.has(".const") => VariableSpace::Global,
            _ => return Err(self.error(format!("no variable: {}", qualifiers.words.join(" ")))),
        };
        let Some(ty) = qualifiers.ty else {
            return Err(self.error("a variable without a type"));
        };
        let name = self.next()?.text.to_owned();
        let elements = self.elements()?;
        let mut initial = Vec::new();
        if self.take("=") {
            let values = match self.operand(&Names::default())? {
                Operand::Vector(values) => values,
                value => vec![value],
            };
            for value in values {
                let bits = match value {
                    Operand::Integer(bits) | Operand::Double(bits) => bits,
                    Operand::Single(bits) => u64::from(bits),
                    _ => return Err(self.error(format!("`{name}` begins with no number"))),
                };
                initial.extend_from_slice(&bits.to_le_bytes()[..ty.bytes().min(8)]);
            }
        }
        self.expect(";")?;
        Ok(Variable {
            space,
            name,
            bytes: ty.bytes() * elements,
            align: qualifiers.align.unwrap_or(ty.bytes()),
            initial,
        })
    }

    /// Reads `[2][3]` behind a name, of which there may be none; `[]` counts as no element.
    fn elements(&mut self) -> Result<usize, SyntaxError> {
        let mut elements: usize = 1;
        while self.take("[") {
            let dimension = if self.is_at("]") { 0 } else { self.size()? };
            elements = elements
                .checked_mul(dimension)
                .ok_or_else(|| self.error("an array without bounds"))?;
            self.expect("]")?;
        }
        Ok(elements)
    }

    /// Reads a kernel from its name on.
    fn entry(&mut self, module: &Module) -> Result<Entry, SyntaxError> {
        let mut entry = Entry {
            name: self.next()?.text.to_owned(),
            ..Entry::default()
        };
        if self.take("(") {
            while !self.take(")") {
                entry.parameters.push(self.parameter()?);
                self.take(",");
            }
        }
        // What the compiler was told of the launch.
        while !self.is_at("{") {
            self.next()?;
        }
        self.expect("{")?;
        // Where nothing else is named, every kernel sees the module's shared variables.
        let shared = |variable: &&Variable| variable.space != VariableSpace::Global;
        entry.variables = module.variables.iter().filter(shared).cloned().collect();
        self.body(&mut entry)?;
        Ok(entry)
    }

    fn parameter(&mut self) -> Result<Parameter, SyntaxError> {
        let mut ty = None;
        let mut align = None;
        let mut of_pointee = false;
        loop {
            let token = self.next()?;
            match token.text {
                ".align" => {
                    let bytes = self.size()?;
                    if !of_pointee {
                        align = Some(bytes);
                    }
                }
                ".ptr" => of_pointee = true,
                word if word.starts_with('.') => ty = Type::named(&word[1..]).or(ty),
                name => {
                    let ty = ty.ok_or_else(|| self.error("a parameter without a type"))?;
                    return Ok(Parameter {
                        name: name.to_owned(),
                        bytes: ty.bytes() * self.elements()?,
                        align: align.unwrap_or(1).max(ty.bytes()),
                    });
                }
            }
        }
    }

    /// Reads the statements up to the brace that ends the body. Braces within it are scopes of a call or of inline
    /// assembly; their registers have names of their own.
    fn body(&mut self, entry: &mut Entry) -> Result<(), SyntaxError> {
        let mut names = Names(vec![HashMap::new()]);
        while !names.0.is_empty() {
            let token = self.next()?;
            match token.text {
                "{" => names.0.push(HashMap::new()),
                "}" => {
                    names.0.pop();
                }
                ";" => {}
                ".loc" => {
                    self.at -= 1;
                    self.skip_line();
                }
                ".pragma" | ".branchtargets" | ".param" | ".callprototype" => {
                    self.skip_statement()?;
                }
                ".reg" => self.registers(entry, &mut names)?,
                ".shared" | ".local" => {
                    self.at -= 1;
                    let qualifiers = self.qualifiers()?;
                    let variable = self.variable(&qualifiers)?;
                    entry.variables.push(variable);
                }
                label if self.take(":") => {
                    entry
                        .labels
                        .insert(label.to_owned(), entry.statements.len());
                }
                _ => {
                    self.at -= 1;
                    let statement = self.statement(&names)?;
                    entry.statements.push(statement);
                }
            }
        }
        Ok(())
    }

    /// Reads `.b32 %r<5>;` or `.b16 low, high;`.
    fn registers(&mut self, entry: &mut Entry, names: &mut Names) -> Result<(), SyntaxError> {
        let qualifiers = self.qualifiers()?;
        let ty = qualifiers
            .ty
            .ok_or_else(|| self.error("registers without a type"))?;
        loop {
            let name = self.next()?.text;
            if self.take("<") {
                for number in 0..self.size()? {
                    names.insert(format!("{name}{number}"), entry.declare(ty));
                }
                self.expect(">")?;
            } else {
                names.insert(name.to_owned(), entry.declare(ty));
            }
            if self.take(";") {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn statement(&mut self, names: &Names) -> Result<Statement, SyntaxError> {
        let begin = self.at;
        let guard = if self.take("@") {
            let negated = self.take("!");
            let name = self.next()?.text;
            let predicate = names
                .get(name)
                .ok_or_else(|| self.error(format!("`{name}` is no register")))?;
            Some(Guard { predicate, negated })
        } else {
            None
        };
        let opcode = self.next()?;
        let mut operands = Vec::new();
        while !self.take(";") {
            operands.push(self.operand(names)?);
            if !self.is_at(";") {
                self.expect(",")?;
            }
        }
        Ok(Statement {
            guard,
            opcode: opcode.text.to_owned(),
            operands,
            text: joined(&self.tokens[begin..self.at - 1]),
            line: opcode.line,
        })
    }

    fn operand(&mut self, names: &Names) -> Result<Operand, SyntaxError> {
        let token = self.next()?;
        let operand = match token.text {
            "{" => {
                let mut elements = Vec::new();
                while !self.take("}") {
                    elements.push(self.operand(names)?);
                    self.take(",");
                }
                Operand::Vector(elements)
            }
            "[" => {
                let base = self.operand(names)?;
                let offset = if self.take("+") {
                    let negative = self.take("-");
                    let offset = self.number()?.cast_signed();
                    if negative { -offset } else { offset }
                } else if self.take("-") {
                    -self.number()?.cast_signed()
                } else {
                    0
                };
                self.expect("]")?;
                Operand::Address(Box::new(base), offset)
            }
            "!" => match self.operand(names)? {
                Operand::Register(predicate) => Operand::Not(predicate),
                _ => return Err(self.error("only a predicate can be negated")),
            },
            "-" => match self.operand(names)? {
                Operand::Integer(value) => Operand::Integer(value.wrapping_neg()),
                _ => return Err(self.error("only an integer can be negated")),
            },
            "_" => Operand::Nothing,
            name => match names.get(name) {
                Some(register) => Operand::Register(register),
                None => SpecialRegister::named(name)
                    .map(Operand::Special)
                    .or_else(|| literal(name))
                    .unwrap_or_else(|| Operand::Symbol(name.to_owned())),
            },
        };
        if self.take("|") {
            let second = self.operand(names)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }
}

/// Returns the text of a statement with blanks where they help.
fn joined(tokens: &[Token<'_>]) -> String {
    let mut text = String::new();
    for token in tokens {
        let tight = text.is_empty()
            || text.ends_with(['[', '{', '!', '@', '-', '+'])
            || [",", "]", "}", "+"].contains(&token.text);
        if !tight {
            text.push(' ');
        }
        text.push_str(token.text);
    }
    text
}
