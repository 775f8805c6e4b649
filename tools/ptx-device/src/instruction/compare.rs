//! Comparisons and choices (PTX ISA, "Comparison and Selection Instructions").

use crate::instruction::form::{Decoded, Form};
use crate::instruction::lanewise::{for_integers, three};
use crate::instruction::rounding::flushed;
use crate::machine::{Fault, Flow, Instruction, Lanes, Source, Step, WARP, Word, map2};
use crate::syntax::{Register, Type};
use half::{bf16, f16};
use std::cmp::Ordering;

/// A relation of two values, and what holds of it where one is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relation {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

impl Relation {
    const fn of(less: bool, equal: bool, greater: bool, unordered: bool) -> Self {
        Self {
            less,
            equal,
            greater,
            unordered,
        }
    }

    fn holds(self, order: Option<Ordering>) -> bool {
        match order {
            Some(Ordering::Less) => self.less,
            Some(Ordering::Equal) => self.equal,
            Some(Ordering::Greater) => self.greater,
            None => self.unordered,
        }
    }
}

const RELATIONS: &[(&str, Relation)] = &[
    ("eq", Relation::of(false, true, false, false)),
    ("lt", Relation::of(true, false, false, false)),
    ("le", Relation::of(true, true, false, false)),
    ("gt", Relation::of(false, false, true, false)),
    ("ge", Relation::of(false, true, true, false)),
    // Names of unsigned comparisons.
    ("lo", Relation::of(true, false, false, false)),
    ("ls", Relation::of(true, true, false, false)),
    ("hi", Relation::of(false, false, true, false)),
    ("hs", Relation::of(false, true, true, false)),
    ("equ", Relation::of(false, true, false, true)),
    ("neu", Relation::of(true, false, true, true)),
    ("ltu", Relation::of(true, false, false, true)),
    ("leu", Relation::of(true, true, false, true)),
    ("gtu", Relation::of(false, false, true, true)),
    ("geu", Relation::of(false, true, true, true)),
    ("num", Relation::of(true, true, true, false)),
    ("nan", Relation::of(false, false, false, true)),
    ("ne", Relation::of(true, false, true, false)),
];

/// From two registers to whether a relation holds in each lane.
type Comparison = Box<dyn Fn(&Lanes, &Lanes) -> Lanes + Send + Sync>;

fn by_order<T: Word>(
    relation: Relation,
    order: impl Fn(T, T) -> Option<Ordering> + Send + Sync + 'static,
) -> Comparison {
    Box::new(move |a, b| map2(a, b, |x: T, y: T| relation.holds(order(x, y))))
}

/// Reads the relation and the type it is of.
fn comparison(form: &mut Form<'_>, relation: Relation, ty: Type) -> Result<Comparison, String> {
    let flushes = form.take("ftz");
    let single = move |value: f32| flushed(value, flushes);
    let found = match ty {
        Type::F32 => Some(by_order(relation, move |x: f32, y: f32| {
            single(x).partial_cmp(&single(y))
        })),
        Type::F64 => Some(by_order(relation, |x: f64, y: f64| x.partial_cmp(&y))),
        Type::F16 => Some(by_order(relation, |x: f16, y: f16| x.partial_cmp(&y))),
        Type::BF16 => Some(by_order(relation, |x: bf16, y: bf16| x.partial_cmp(&y))),
        integer => for_integers!(integer, T => by_order(relation, |x: T, y: T| Some(x.cmp(&y)))),
    };
    found.ok_or_else(|| format!("{ty:?} is not compared"))
}

/// How a comparison joins another predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    And,
    Or,
    Xor,
}

const JOINS: &[(&str, Join)] = &[("and", Join::And), ("or", Join::Or), ("xor", Join::Xor)];

/// `setp`
struct SetPredicate {
    compare: Comparison,
    join: Option<(Join, Source, bool)>,
    /// Where the result goes, and where that of the opposite.
    to: [Option<Register>; 2],
    from: [Source; 2],
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    match form.stem() {
        "setp" => {
            let relation = form.needed(RELATIONS)?;
            let join = form.one_of(JOINS);
            let ty = form.ty()?;
            let compare = comparison(form, relation, ty)?;
            let (holds, fails) = form.register_pair()?;
            let from = [form.source(ty)?, form.source(ty)?];
            let join = match join {
                None => None,
                Some(join) => {
                    let (predicate, negated) = form.predicate()?;
                    Some((join, predicate, negated))
                }
            };
            Ok(Box::new(SetPredicate {
                compare,
                join,
                to: [holds, fails],
                from,
            }))
        }
        "set" => {
            let relation = form.needed(RELATIONS)?;
            let (to, of) = (form.ty()?, form.ty()?);
            let compare = comparison(form, relation, of)?;
            let yes: u64 = match to {
                Type::F32 => 1f32.to_bits().into(),
                Type::U32 | Type::S32 | Type::B32 => u32::MAX.into(),
                _ => return Err(format!("`set` gives no {to:?}")),
            };
            let function: super::lanewise::Function =
                Box::new(move |from| compare(&from[0], &from[1]).map(|holds| holds * yes));
            form.lanewise(2, of, function)
        }
        "selp" => {
            let ty = form.ty()?;
            let function = three(|x: u64, y: u64, first: bool| if first { x } else { y });
            form.lanewise(3, ty, function)
        }
        _ => {
            let flushes = form.take("ftz");
            let (ty, sign) = (form.ty()?, form.ty()?);
            let function = match sign {
                Type::S32 => three(|x: u64, y: u64, sign: i32| if sign >= 0 { x } else { y }),
                Type::F32 => three(
                    move |x: u64, y: u64, sign: f32| {
                        if flushed(sign, flushes) >= 0.0 { x } else { y }
                    },
                ),
                _ => return Err(format!("`slct` does not look at {sign:?}")),
            };
            form.lanewise(3, ty, function)
        }
    }
}

impl Instruction for SetPredicate {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let [a, b] = self.from.map(|source| step.read(source));
        let mut holds = (self.compare)(&a, &b);
        let mut fails = holds.map(|bit| bit ^ 1);
        if let Some((join, predicate, negated)) = self.join {
            let other = step.read(predicate);
            for lane in 0..WARP {
                let other = other[lane] & 1 ^ u64::from(negated);
                let joined = |bit: u64| match join {
                    Join::And => bit & other,
                    Join::Or => bit | other,
                    Join::Xor => bit ^ other,
                };
                holds[lane] = joined(holds[lane]);
                fails[lane] = joined(fails[lane]);
            }
        }
        for (to, values) in self.to.into_iter().zip([holds, fails]) {
            if let Some(to) = to {
                step.write(to, &values);
            }
        }
        Ok(Flow::Next)
    }
}
