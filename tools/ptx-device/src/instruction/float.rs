//! Arithmetic of floating-point numbers (PTX ISA, "Floating Point Instructions" and "Half Precision Floating Point Instructions").
//!
//! What the ISA calls approximate is computed as well as the format allows: a device's result lies near it.

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{Function, one, three, two};
use crate::instruction::rounding::{Rounding, flushed, sum_to_odd, to_bf16, to_f16, to_f32};
use crate::machine::Word;
use crate::syntax::Type;
use half::{bf16, f16};
use std::array::from_fn;

/// What changes a result after it is rounded.
#[derive(Debug, Clone, Copy, Default)]
struct Finish {
    mode: Option<Rounding>,
    /// Subnormal operands and results become 0: `.ftz`.
    flushes: bool,
    /// Into 0 to 1, NaN to 0: `.sat`.
    saturates: bool,
    /// Negative results and NaN: `.relu`.
    is_relu: bool,
}

impl Finish {
    fn mode(self) -> Rounding {
        self.mode.unwrap_or(Rounding::Nearest)
    }

    /// Limits an exact or odd result, before it is rounded.
    fn limited(self, value: f64) -> f64 {
        if self.saturates {
            return if value.is_nan() {
                0.0
            } else {
                value.clamp(0.0, 1.0)
            };
        }
        if self.is_relu && value < 0.0 {
            return 0.0;
        }
        value
    }
}

/// A floating-point type of registers.
trait Float: Word + Send + Sync {
    /// Returns its value.
    fn value(self, finish: Finish) -> f64;
    /// Rounds to it.
    fn of_value(value: f64, finish: Finish) -> Self;
}

impl Float for f32 {
    fn value(self, finish: Finish) -> f64 {
        flushed(self, finish.flushes).into()
    }
    fn of_value(value: f64, finish: Finish) -> Self {
        flushed(to_f32(finish.limited(value), finish.mode()), finish.flushes)
    }
}

impl Float for f16 {
    fn value(self, _: Finish) -> f64 {
        self.to_f64()
    }
    fn of_value(value: f64, finish: Finish) -> Self {
        to_f16(finish.limited(value), finish.mode())
    }
}

impl Float for bf16 {
    fn value(self, _: Finish) -> f64 {
        self.to_f64()
    }
    fn of_value(value: f64, finish: Finish) -> Self {
        to_bf16(finish.limited(value), finish.mode())
    }
}

/// Double precision computes in its own rounding; other modes are refused where they are decoded.
impl Float for f64 {
    fn value(self, _: Finish) -> f64 {
        self
    }
    fn of_value(value: f64, _: Finish) -> Self {
        value
    }
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    if stem == "testp" {
        return test(form);
    }
    let finish = Finish {
        mode: form.one_of(Rounding::OF_FLOATS),
        flushes: form.take("ftz"),
        saturates: form.take("sat"),
        is_relu: form.take("relu"),
    };
    form.ignore(&["approx", "full"]);
    let propagates_nan = form.take("NaN");
    let ty = form.ty()?;
    if form.types_left() > 0 {
        return mixed(form, ty, finish);
    }
    let sources = match stem {
        "fma" | "mad" => 3,
        // Of three operands from sm_100 on.
        "min" | "max" => form.operands_left() - 1,
        "add" | "sub" | "mul" | "div" | "copysign" => 2,
        _ => 1,
    };
    if matches!(stem, "div" | "rcp" | "sqrt")
        && !matches!(finish.mode, None | Some(Rounding::Nearest))
    {
        return Err("quotients and roots are rounded to nearest alone".to_owned());
    }
    let exact = finish.mode.is_none_or(|mode| mode == Rounding::Nearest);
    let function = match ty {
        // What is asked for most, without the way through double precision.
        Type::F32 if exact && !finish.is_relu => single(stem, finish),
        _ => None,
    };
    let function = function.or_else(|| match ty {
        Type::F32 => of_type::<f32, 1>(stem, sources, finish, propagates_nan),
        Type::F16 => of_type::<f16, 1>(stem, sources, finish, propagates_nan),
        Type::BF16 => of_type::<bf16, 1>(stem, sources, finish, propagates_nan),
        Type::F64 if exact => {
            double(stem).or_else(|| of_type::<f64, 1>(stem, sources, finish, propagates_nan))
        }
        Type::F16x2 => of_type::<f16, 2>(stem, sources, finish, propagates_nan),
        Type::BF16x2 => of_type::<bf16, 2>(stem, sources, finish, propagates_nan),
        Type::F32x2 => of_type::<f32, 2>(stem, sources, finish, propagates_nan),
        _ => None,
    });
    let function = function.ok_or_else(|| format!("{ty:?} has no `{stem}` of that form"))?;
    form.lanewise(sources, ty, function)
}

/// Sums and products of single precision in its own rounding.
fn single(stem: &str, finish: Finish) -> Option<Function> {
    let end = move |value: f32| {
        let value = flushed(value, finish.flushes);
        if !finish.saturates {
            value
        } else if value.is_nan() {
            0.0
        } else {
            value.clamp(0.0, 1.0)
        }
    };
    let begin = move |value: f32| flushed(value, finish.flushes);
    Some(match stem {
        "add" => two(move |x: f32, y: f32| end(begin(x) + begin(y))),
        "sub" => two(move |x: f32, y: f32| end(begin(x) - begin(y))),
        "mul" => two(move |x: f32, y: f32| end(begin(x) * begin(y))),
        "div" => two(move |x: f32, y: f32| end(begin(x) / begin(y))),
        "fma" | "mad" => {
            three(move |x: f32, y: f32, sum: f32| end(begin(x).mul_add(begin(y), begin(sum))))
        }
        "sqrt" => one(move |x: f32| end(begin(x).sqrt())),
        "rcp" => one(move |x: f32| end(1.0 / begin(x))),
        _ => return None,
    })
}

/// Sums and products of double precision, which round once.
fn double(stem: &str) -> Option<Function> {
    Some(match stem {
        "add" => two(|x: f64, y: f64| x + y),
        "sub" => two(|x: f64, y: f64| x - y),
        "mul" => two(|x: f64, y: f64| x * y),
        "fma" => three(|x: f64, y: f64, sum: f64| x.mul_add(y, sum)),
        _ => return None,
    })
}

/// Operations whose result depends on the values: of one, two or three of them.
enum Operation {
    One(fn(f64) -> f64),
    Two(fn(f64, f64) -> f64),
    Three(fn(f64, f64, f64) -> f64),
}

fn operation(stem: &str, sources: usize, propagates_nan: bool) -> Option<Operation> {
    use Operation::{One, Three, Two};
    Some(match (stem, sources, propagates_nan) {
        ("add", ..) => Two(sum_to_odd),
        ("sub", ..) => Two(|x, y| sum_to_odd(x, -y)),
        // Exact in double precision for every narrower format.
        ("mul", ..) => Two(|x, y| x * y),
        // Correctly rounded twice, which for quotients of these precisions is as good as once.
        ("div", ..) => Two(|x, y| x / y),
        ("fma" | "mad", ..) => Three(|x, y, sum| sum_to_odd(x * y, sum)),
        ("min", 2, false) => Two(least),
        ("max", 2, false) => Two(greatest),
        ("min", 2, true) => Two(|x, y| {
            if x.is_nan() || y.is_nan() {
                f64::NAN
            } else {
                least(x, y)
            }
        }),
        ("max", 2, true) => Two(|x, y| {
            if x.is_nan() || y.is_nan() {
                f64::NAN
            } else {
                greatest(x, y)
            }
        }),
        ("min", 3, false) => Three(|x, y, z| least(least(x, y), z)),
        ("max", 3, false) => Three(|x, y, z| greatest(greatest(x, y), z)),
        ("copysign", ..) => Two(|x, y| y.copysign(x)),
        ("neg", ..) => One(|x| -x),
        ("abs", ..) => One(f64::abs),
        ("rcp", ..) => One(|x| 1.0 / x),
        ("sqrt", ..) => One(f64::sqrt),
        ("rsqrt", ..) => One(|x| 1.0 / x.sqrt()),
        ("ex2", ..) => One(f64::exp2),
        ("lg2", ..) => One(f64::log2),
        ("sin", ..) => One(f64::sin),
        ("cos", ..) => One(f64::cos),
        ("tanh", ..) => One(f64::tanh),
        _ => return None,
    })
}

/// The lesser of two, -0 before +0; the number where the other is NaN.
fn least(x: f64, y: f64) -> f64 {
    match (x.is_nan(), y.is_nan()) {
        (true, _) => y,
        (_, true) => x,
        _ if x == y => {
            if x.is_sign_negative() {
                x
            } else {
                y
            }
        }
        _ => x.min(y),
    }
}

/// The greater of two, +0 before -0; the number where the other is NaN.
fn greatest(x: f64, y: f64) -> f64 {
    -least(-x, -y)
}

/// Returns what is computed of `N` numbers of a type in each register.
fn of_type<T: Float + 'static, const N: usize>(
    stem: &str,
    sources: usize,
    finish: Finish,
    propagates_nan: bool,
) -> Option<Function>
where
    [T; N]: Word,
{
    let value = move |x: T| x.value(finish);
    let end = move |value: f64| T::of_value(value, finish);
    Some(match operation(stem, sources, propagates_nan)? {
        Operation::One(f) => one(move |x: [T; N]| x.map(|x| end(f(value(x))))),
        Operation::Two(f) => two(move |x: [T; N], y: [T; N]| {
            from_fn(|at| end(f(value(x[at]), value(y[at])))) as [T; N]
        }),
        Operation::Three(f) => three(move |x: [T; N], y: [T; N], z: [T; N]| {
            from_fn(|at| end(f(value(x[at]), value(y[at]), value(z[at])))) as [T; N]
        }),
    })
}

/// Sums in single precision with factors, or a first addend, in half precision (from sm_100 on).
fn mixed(form: &mut Form<'_>, sum: Type, finish: Finish) -> Decoded {
    let (stem, narrow) = (form.stem(), form.ty()?);
    let (sources, function) = match (sum, narrow) {
        (Type::F32, Type::F16) => mixed_of::<f16>(stem, finish)?,
        (Type::F32, Type::BF16) => mixed_of::<bf16>(stem, finish)?,
        _ => return Err(format!("no `{stem}` has {narrow:?} in {sum:?}")),
    };
    form.lanewise(sources, narrow, function)
}

fn mixed_of<T: Float + 'static>(stem: &str, finish: Finish) -> Result<(usize, Function), String> {
    let end = move |value: f64| f32::of_value(value, finish);
    let value = move |x: T| x.value(finish);
    Ok(match stem {
        "add" => (
            2,
            two(move |x: T, y: f32| end(sum_to_odd(value(x), y.into()))),
        ),
        "sub" => (
            2,
            two(move |x: T, y: f32| end(sum_to_odd(value(x), -f64::from(y)))),
        ),
        "fma" => (
            3,
            three(move |x: T, y: T, sum: f32| end(sum_to_odd(value(x) * value(y), sum.into()))),
        ),
        _ => return Err(format!("`{stem}` does not mix types")),
    })
}

/// `testp`: whether a number is of a kind.
fn test(form: &mut Form<'_>) -> Decoded {
    let kind: fn(f64) -> bool = form.needed(&[
        ("finite", f64::is_finite as fn(f64) -> bool),
        ("infinite", f64::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f64::is_nan),
    ])?;
    let ty = form.ty()?;
    let function = match ty {
        Type::F32 => one(move |x: f32| kind(x.into())),
        Type::F64 => one(kind),
        _ => return Err(format!("{ty:?} has no `testp`")),
    };
    form.lanewise(1, ty, function)
}
