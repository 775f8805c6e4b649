//! Changes of type (PTX ISA, `cvt`).

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{one, two};
use crate::instruction::rounding::{
    Format, Rounding, flushed, integer_to_odd, rounded, to_bf16, to_f16, to_f32,
};
use crate::machine::Word;
use crate::syntax::Type;
use half::{bf16, f16};

/// A conversion of one value.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    to: Type,
    from: Type,
    /// How a floating-point result is rounded.
    rounding: Rounding,
    /// How a floating-point operand is rounded to an integer before.
    to_integer: Option<Rounding>,
    flushes: bool,
    saturates: bool,
    is_relu: bool,
    /// The type of the register that the result goes to; a signed integer is extended to it.
    register: Type,
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let rounding = form.one_of(Rounding::OF_FLOATS);
    let to_integer = form.one_of(Rounding::TO_INTEGERS);
    let flushes = form.take("ftz");
    let saturates = form.take("sat");
    let is_relu = form.take("relu");
    let (to, from) = (form.ty()?, form.ty()?);
    let packed = matches!(to, Type::F16x2 | Type::BF16x2);
    let sources = if packed { 2 } else { 1 };
    let conversion = Conversion {
        to,
        from,
        rounding: rounding.unwrap_or(Rounding::Nearest),
        to_integer,
        flushes,
        saturates,
        is_relu,
        register: to,
    };
    if is_relu
        && !matches!(
            to,
            Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2 | Type::TF32
        )
    {
        return Err(format!("`.relu` is not of {to:?}"));
    }
    if packed {
        if from != Type::F32 {
            return Err(format!("{to:?} is not made of {from:?}"));
        }
        let half = move |value: f32| conversion.of_float(value.into());
        let width = 16;
        return form.lanewise(
            sources,
            from,
            two(move |high: f32, low: f32| half(low) | half(high) << width),
        );
    }
    if to.is_float() != from.is_float() || from.is_float() {
        supported(to)?;
        supported(from)?;
    }
    let to_register = form.register()?;
    let conversion = Conversion {
        register: form.type_of(to_register),
        ..conversion
    };
    let source = form.source(from)?;
    Ok(Box::new(super::lanewise::Lanewise {
        to: to_register,
        from: vec![source],
        function: one(move |bits: u64| conversion.apply(bits)),
    }))
}

fn supported(ty: Type) -> Result<(), String> {
    match ty {
        Type::F32x2 | Type::F16x2 | Type::BF16x2 | Type::B128 | Type::Pred => {
            Err(format!("{ty:?} is not converted"))
        }
        _ => Ok(()),
    }
}

impl Conversion {
    fn apply(self, bits: u64) -> u64 {
        if self.from.is_float() {
            let value = match self.from {
                Type::F16 => f16::of(bits).to_f64(),
                Type::BF16 => bf16::of(bits).to_f64(),
                Type::F64 => f64::of(bits),
                _ => flushed(f32::of(bits), self.flushes).into(),
            };
            let value = match self.to_integer {
                Some(mode) => mode.integer(value),
                None => value,
            };
            return if self.to.is_float() {
                self.of_float(value)
            } else {
                self.of_float_to_integer(value)
            };
        }
        let value = integer(bits, self.from);
        if self.to.is_float() {
            self.of_float(integer_to_odd(value))
        } else {
            let (least, most) = limits(self.to);
            self.extended(if self.saturates {
                value.clamp(least, most)
            } else {
                value
            })
        }
    }

    /// Rounds to the type, which is one of floating-point numbers.
    fn of_float(self, value: f64) -> u64 {
        let value = match value {
            nan if nan.is_nan() && self.saturates => 0.0,
            value if self.saturates => value.clamp(0.0, 1.0),
            value if self.is_relu && value < 0.0 => 0.0,
            value => value,
        };
        match self.to {
            Type::F16 | Type::F16x2 => to_f16(value, self.rounding).bits(),
            Type::BF16 | Type::BF16x2 => to_bf16(value, self.rounding).bits(),
            Type::TF32 => (rounded(value, Format::TF32, self.rounding) as f32).bits(),
            Type::F64 => value.bits(),
            _ => flushed(to_f32(value, self.rounding), self.flushes).bits(),
        }
    }

    /// Converts to an integer within its limits; NaN becomes 0, or the highest bit alone where there are 64.
    fn of_float_to_integer(self, value: f64) -> u64 {
        let (least, most) = limits(self.to);
        if value.is_nan() {
            let of_64_bits = self.to.bytes() == 8 || matches!(self.from, Type::F64);
            return if of_64_bits {
                1 << (8 * self.to.bytes() - 1)
            } else {
                0
            };
        }
        self.extended((value.trunc() as i128).clamp(least, most))
    }

    /// Returns an integer of the type in a register that may be wider.
    fn extended(self, value: i128) -> u64 {
        self.register.narrowed(self.to.widened(value as u64))
    }
}

/// Returns the lowest bits as a number of the type.
fn integer(bits: u64, ty: Type) -> i128 {
    let whole = ty.widened(bits);
    if ty.is_signed() {
        whole.cast_signed().into()
    } else {
        whole.into()
    }
}

/// Returns the least and the greatest number of an integer type.
fn limits(ty: Type) -> (i128, i128) {
    let width = 8 * ty.bytes();
    if ty.is_signed() {
        (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, (1 << width) - 1)
    }
}
