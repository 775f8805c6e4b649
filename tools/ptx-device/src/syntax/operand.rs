//! What an instruction reads and writes.

/// A register of a kernel by its place in the kernel's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register(pub usize);

/// `@%p` or `@!%p` before an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub predicate: Register,
    /// Whether the lanes go on for which it is false.
    pub negated: bool,
}

/// An operand as it is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Register(Register),
    /// `!%p`
    Not(Register),
    /// An integer.
    Integer(u64),
    /// `0f3F800000`: the bits of a single-precision number.
    Single(u32),
    /// `0d3FF0000000000000`: the bits of a double-precision number.
    Double(u64),
    /// `%tid.x` and its like.
    Special(SpecialRegister),
    /// The name of a variable, a parameter or a label.
    Symbol(String),
    /// `[base + offset]`
    Address(Box<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Nothing,
}

/// A read-only register that the device fills; `Tid` and its like by dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the ISA's names")]
pub enum SpecialRegister {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Laneid,
    Warpid,
    WarpSize,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicSmemSize,
}

impl SpecialRegister {
    /// Returns the register of that name.
    pub fn named(name: &str) -> Option<Self> {
        let dimension = |axis: &str| ["x", "y", "z"].iter().position(|known| *known == axis);
        if let Some((vector, axis)) = name.rsplit_once('.') {
            let axis = dimension(axis)?;
            return Some(match vector {
                "%tid" => Self::Tid(axis),
                "%ntid" => Self::Ntid(axis),
                "%ctaid" => Self::Ctaid(axis),
                "%nctaid" => Self::Nctaid(axis),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Self::Laneid,
            "%warpid" => Self::Warpid,
            "WARP_SZ" => Self::WarpSize,
            "%lanemask_eq" => Self::LanemaskEq,
            "%lanemask_le" => Self::LanemaskLe,
            "%lanemask_lt" => Self::LanemaskLt,
            "%lanemask_ge" => Self::LanemaskGe,
            "%lanemask_gt" => Self::LanemaskGt,
            "%dynamic_smem_size" => Self::DynamicSmemSize,
            _ => return None,
        })
    }
}

/// Reads a number: decimal, `0x…`, `0b…`, octal with a leading zero, `0f…` and `0d…`, an unsigned one with `U` behind it.
pub fn literal(text: &str) -> Option<Operand> {
    let digits = text.trim_end_matches('U');
    let after = |lower: &str, upper: &str| {
        digits
            .strip_prefix(lower)
            .or_else(|| digits.strip_prefix(upper))
    };
    if let Some(bits) = after("0f", "0F").filter(|bits| bits.len() == 8) {
        return u32::from_str_radix(bits, 16).ok().map(Operand::Single);
    }
    if let Some(bits) = after("0d", "0D").filter(|bits| bits.len() == 16) {
        return u64::from_str_radix(bits, 16).ok().map(Operand::Double);
    }
    let value = if let Some(hexadecimal) = after("0x", "0X") {
        u64::from_str_radix(hexadecimal, 16)
    } else if let Some(binary) = after("0b", "0B") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    value.ok().map(Operand::Integer)
}
