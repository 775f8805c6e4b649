//! Arithmetic of integers (PTX ISA, "Integer Arithmetic Instructions").

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{Function, for_integers, one, three, two};
use crate::machine::Word;
use crate::syntax::Type;

/// Which half of a product is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
    /// Both.
    Wide,
}

const HALVES: &[(&str, Half)] = &[("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)];

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    match stem {
        "mul" | "mad" | "mul24" | "mad24" => return product(form, stem),
        "dp4a" => return dot_product(form),
        _ => {}
    }
    let ty = form.ty()?;
    let saturating = form.take("sat");
    if saturating && ty != Type::S32 {
        return Err("`.sat` is of s32 alone".to_owned());
    }
    let unary = matches!(stem, "neg" | "abs");
    let function = match stem {
        "add" if saturating => Some(two(|x: i32, y: i32| x.saturating_add(y))),
        "sub" if saturating => Some(two(|x: i32, y: i32| x.saturating_sub(y))),
        "add" => for_integers!(ty, T => two(|x: T, y: T| x.wrapping_add(y))),
        "sub" => for_integers!(ty, T => two(|x: T, y: T| x.wrapping_sub(y))),
        // Division by zero gives a value that the ISA leaves open; this is what devices give.
        "div" => {
            for_integers!(ty, T => two(|x: T, y: T| if y == 0 { !0 } else { x.wrapping_div(y) }))
        }
        "rem" => {
            for_integers!(ty, T => two(|x: T, y: T| if y == 0 { x } else { x.wrapping_rem(y) }))
        }
        "min" => for_integers!(ty, T => two(|x: T, y: T| x.min(y))),
        "max" => for_integers!(ty, T => two(|x: T, y: T| x.max(y))),
        "neg" => for_integers!(ty, T => one(|x: T| (0 as T).wrapping_sub(x))),
        "abs" => absolute(ty),
        _ => {
            let difference = for_integers!(ty, T => three(|x: T, y: T, sum: T| {
                sum.wrapping_add(x.max(y).wrapping_sub(x.min(y)))
            }));
            let function = difference.ok_or("that type has no `sad`")?;
            return form.lanewise(3, ty, function);
        }
    };
    let function = function.ok_or_else(|| format!("{ty:?} has no `{stem}`"))?;
    form.lanewise(if unary { 1 } else { 2 }, ty, function)
}

fn absolute(ty: Type) -> Option<Function> {
    Some(match ty {
        Type::S16 => one(|x: i16| x.wrapping_abs()),
        Type::S32 => one(|x: i32| x.wrapping_abs()),
        Type::S64 => one(|x: i64| x.wrapping_abs()),
        _ => return None,
    })
}

/// An integer whose product with another can be taken whole.
trait Factor: Word {
    /// Returns the lower and the upper half of the product; the lower as the unsigned word of this width.
    fn halves(self, other: Self) -> [u64; 2];
}

macro_rules! factors {
    ($($word:ty, $wide:ty);+) => {$(
        impl Factor for $word {
            fn halves(self, other: Self) -> [u64; 2] {
                let product = self as $wide * other as $wide;
                [(product as $word).bits(), ((product >> <$word>::BITS) as $word).bits()]
            }
        }
    )+};
}

factors!(u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128);

fn product(form: &mut Form<'_>, stem: &str) -> Decoded {
    let half = form.needed(HALVES)?;
    let ty = form.ty()?;
    let of_24_bits = stem.ends_with("24");
    if of_24_bits && (half != Half::Low || ty.bytes() != 4) {
        return Err("of 24-bit products only `.lo` of 32 bits is here".to_owned());
    }
    if half == Half::Wide && ty.bytes() == 8 {
        return Err("`.wide` is of 16 and 32 bits alone".to_owned());
    }
    let width = 8 * ty.bytes();
    let sum_width = if half == Half::Wide { 2 * width } else { width };
    let keep = move |bits: u64| bits & (u64::MAX >> (64 - sum_width));
    let of_halves = move |[low, high]: [u64; 2]| match half {
        Half::Low => low,
        Half::High => high,
        Half::Wide => low | high << width,
    };
    if stem.starts_with("mul") {
        let function = for_integers!(ty, T => two(move |x: T, y: T| {
            of_halves(Factor::halves(narrow_24(x, of_24_bits), narrow_24(y, of_24_bits)))
        }));
        return form.lanewise(2, ty, function.ok_or("that type has no product")?);
    }
    let function = for_integers!(ty, T => three(move |x: T, y: T, sum: u64| {
        let product = Factor::halves(narrow_24(x, of_24_bits), narrow_24(y, of_24_bits));
        keep(of_halves(product).wrapping_add(sum))
    }));
    form.lanewise(3, ty, function.ok_or("that type has no product")?)
}

/// Returns the lowest 24 bits of a word, extended as its type is, where that is asked for.
fn narrow_24<T: Word + std::ops::Shl<u32, Output = T> + std::ops::Shr<u32, Output = T>>(
    value: T,
    asked: bool,
) -> T {
    if asked { (value << 8) >> 8 } else { value }
}

/// `dp4a`: the products of four bytes each, summed.
fn dot_product(form: &mut Form<'_>) -> Decoded {
    let (left, right) = (form.ty()?, form.ty()?);
    let byte = |bits: u32, place: u32, ty: Type| {
        let byte = (bits >> (8 * place)) as u8;
        if ty.is_signed() {
            i64::from(byte.cast_signed())
        } else {
            i64::from(byte)
        }
    };
    let function = three(move |x: u32, y: u32, sum: u32| {
        let products = (0..4).map(|place| byte(x, place, left) * byte(y, place, right));
        sum.wrapping_add(products.sum::<i64>() as u32)
    });
    form.lanewise(3, Type::B32, function)
}
