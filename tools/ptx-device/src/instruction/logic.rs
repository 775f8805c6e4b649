//! Bits and bytes within a register (PTX ISA, "Logic and Shift Instructions", and the bit fields of the integer ones).

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{for_integers, four, one, three, two};

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    match form.stem() {
        "and" | "or" | "xor" | "not" | "cnot" => bitwise(form),
        "shl" | "shr" => shift(form),
        "shf" => funnel(form),
        "lop3" => table(form),
        "prmt" => permute(form),
        "bfe" => extract(form),
        "bfi" => insert(form),
        _ => count(form),
    }
}

fn bitwise(form: &mut Form<'_>) -> Decoded {
    let (stem, ty) = (form.stem(), form.ty()?);
    if ty.is_float() {
        return Err(format!("{ty:?} has no `{stem}`"));
    }
    let keep = move |bits: u64| ty.narrowed(bits);
    match stem {
        "and" => form.lanewise(2, ty, two(move |x: u64, y: u64| keep(x & y))),
        "or" => form.lanewise(2, ty, two(move |x: u64, y: u64| keep(x | y))),
        "xor" => form.lanewise(2, ty, two(move |x: u64, y: u64| keep(x ^ y))),
        "not" => form.lanewise(1, ty, one(move |x: u64| keep(!x))),
        _ => form.lanewise(1, ty, one(move |x: u64| u64::from(keep(x) == 0))),
    }
}

/// Shifts; an amount beyond the width counts as the width.
fn shift(form: &mut Form<'_>) -> Decoded {
    let (stem, ty) = (form.stem(), form.ty()?);
    let function = if stem == "shl" {
        for_integers!(ty, T => two(|x: T, by: u32| x.checked_shl(by).unwrap_or(0)))
    } else if ty.is_signed() {
        for_integers!(ty, T => two(|x: T, by: u32| x >> by.min(T::BITS - 1)))
    } else {
        for_integers!(ty, T => two(|x: T, by: u32| x.checked_shr(by).unwrap_or(0)))
    };
    form.lanewise(2, ty, function.ok_or("that type has no shifts")?)
}

/// `shf`: 32 bits out of two registers.
fn funnel(form: &mut Form<'_>) -> Decoded {
    let left = form.needed(&[("l", true), ("r", false)])?;
    let wraps = form.needed(&[("wrap", true), ("clamp", false)])?;
    let ty = form.ty()?;
    let function = three(move |low: u32, high: u32, by: u32| {
        let by = if wraps { by % 32 } else { by.min(32) };
        let both = u64::from(high) << 32 | u64::from(low);
        if left {
            (both << by >> 32) as u32
        } else {
            (both >> by) as u32
        }
    });
    form.lanewise(3, ty, function)
}

/// `lop3`: any function of three bits, by its table.
fn table(form: &mut Form<'_>) -> Decoded {
    let ty = form.ty()?;
    let to = form.register()?;
    let mut from = Vec::new();
    for _ in 0..3 {
        from.push(form.source(ty)?);
    }
    let table = form.number()?;
    let function = three(move |a: u32, b: u32, c: u32| {
        let of_row = |row: u32| {
            let matching = |bits: u32, wanted: u32| if wanted == 1 { bits } else { !bits };
            matching(a, row >> 2 & 1) & matching(b, row >> 1 & 1) & matching(c, row & 1)
        };
        let rows = (0..8).filter(|row| table >> row & 1 == 1);
        rows.fold(0, |found, row| found | of_row(row))
    });
    Ok(Box::new(super::lanewise::Lanewise { to, from, function }))
}

/// `prmt`: four bytes out of two registers, in its default mode.
fn permute(form: &mut Form<'_>) -> Decoded {
    let ty = form.ty()?;
    let function = three(|low: u32, high: u32, selection: u32| {
        let both = u64::from(high) << 32 | u64::from(low);
        (0..4).fold(0, |found, place| {
            let selector = selection >> (4 * place) & 0xf;
            let byte = (both >> (8 * (selector & 7))) as u8;
            let sign = if byte >> 7 == 1 { 0xff } else { 0 };
            let byte = if selector & 8 == 8 { sign } else { byte };
            found | u32::from(byte) << (8 * place)
        })
    });
    form.lanewise(3, ty, function)
}

/// `bfe`: a field of bits, extended by its highest where the type is signed.
fn extract(form: &mut Form<'_>) -> Decoded {
    let ty = form.ty()?;
    if ty.bytes() < 4 {
        return Err("a field is of 32 or 64 bits".to_owned());
    }
    let width = 8 * ty.bytes() as u32;
    let keep = move |bits: u64| ty.narrowed(bits);
    let signed = ty.is_signed();
    let function = three(move |bits: u64, position: u32, length: u32| {
        let (position, length) = (position & 0xff, length & 0xff);
        if length == 0 {
            return 0;
        }
        let bits = keep(bits);
        let highest = (position + length - 1).min(width - 1);
        let sign = signed && bits >> highest & 1 == 1;
        let field = bits.checked_shr(position).unwrap_or(0);
        let mask = u64::MAX
            .checked_shr(64u32.saturating_sub(length))
            .unwrap_or(0);
        // The ISA's loop ends at the word's highest bit; above it stands the sign.
        let there = (highest + 1).saturating_sub(position);
        let above = u64::MAX.checked_shl(there).unwrap_or(0);
        keep(if sign {
            field & mask | above
        } else {
            field & mask & !above
        })
    });
    form.lanewise(3, ty, function)
}

/// `bfi`: the lowest bits of one word in a field of another.
fn insert(form: &mut Form<'_>) -> Decoded {
    let ty = form.ty()?;
    let keep = move |bits: u64| ty.narrowed(bits);
    let function = four(move |bits: u64, into: u64, position: u32, length: u32| {
        let (position, length) = (position & 0xff, length & 0xff);
        let ones = match length {
            0 => 0,
            length => u64::MAX >> 64u32.saturating_sub(length),
        };
        let field = ones.checked_shl(position).unwrap_or(0);
        let moved = bits.checked_shl(position).unwrap_or(0);
        keep(into & !field | moved & field)
    });
    form.lanewise(4, ty, function)
}

/// `popc`, `clz`, `brev` and `bfind`.
fn count(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    let by_shift = form.take("shiftamt");
    let ty = form.ty()?;
    let width = 8 * ty.bytes() as u32;
    let keep = move |bits: u64| ty.narrowed(bits);
    let function = match stem {
        "popc" => one(move |bits: u64| keep(bits).count_ones()),
        "clz" => one(move |bits: u64| keep(bits).leading_zeros() - (64 - width)),
        "brev" => one(move |bits: u64| keep(bits).reverse_bits() >> (64 - width)),
        _ => {
            let signed = ty.is_signed();
            one(move |bits: u64| {
                let negative = signed && bits >> (width - 1) & 1 == 1;
                let bits = keep(if negative { !bits } else { bits });
                match bits.checked_ilog2() {
                    None => u32::MAX,
                    Some(highest) if by_shift => width - 1 - highest,
                    Some(highest) => highest,
                }
            })
        }
    };
    form.lanewise(1, ty, function)
}
