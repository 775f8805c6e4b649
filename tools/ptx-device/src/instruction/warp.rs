//! Exchange between the lanes of a warp (PTX ISA, `shfl`, `vote`, `match`, `redux`, `elect`, `activemask`, `bar.warp.sync`).
//!
//! All lanes that an instruction's mask names and that have not ended must come to it together.

use crate::instruction::form::{Decoded, Form};
use crate::instruction::memory::{ATOMICS, Atomic};
use crate::machine::{Fault, Flow, Instruction, Mask, Source, Step, WARP};
use crate::syntax::{Register, Type};

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    if stem == "activemask" {
        let _ = form.ty()?;
        return Ok(Box::new(ActiveMask {
            to: form.register()?,
        }));
    }
    if !form.take("sync") {
        return Err(format!("`{stem}` without `.sync` is not here"));
    }
    match stem {
        "bar" | "barrier" => {
            form.take("warp");
            let mask = form.source(Type::B32)?;
            Ok(Box::new(WarpBarrier { mask }))
        }
        "shfl" => shuffle(form),
        "vote" => vote(form),
        "match" => matching(form),
        "redux" => reduction(form),
        _ => {
            let (lane, elected) = form.register_pair()?;
            let mask = form.source(Type::B32)?;
            Ok(Box::new(Elect {
                lane,
                elected,
                mask,
            }))
        }
    }
}

struct ActiveMask {
    to: Register,
}

impl Instruction for ActiveMask {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let mask = step.active.0;
        step.write(self.to, &[mask.into(); WARP]);
        Ok(Flow::Next)
    }
}

struct WarpBarrier {
    mask: Source,
}

impl Instruction for WarpBarrier {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.members(self.mask)?;
        step.warp.epoch += 1;
        Ok(Flow::Next)
    }
}

/// Which lane a lane reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
    Butterfly,
    Index,
}

struct Shuffle {
    direction: Direction,
    to: Option<Register>,
    in_range: Option<Register>,
    value: Source,
    by: Source,
    /// The clamp and the segment mask.
    bounds: Source,
    mask: Source,
}

fn shuffle(form: &mut Form<'_>) -> Decoded {
    let direction = form.needed(&[
        ("up", Direction::Up),
        ("down", Direction::Down),
        ("bfly", Direction::Butterfly),
        ("idx", Direction::Index),
    ])?;
    let ty = form.ty()?;
    let (to, in_range) = form.register_pair()?;
    Ok(Box::new(Shuffle {
        direction,
        to,
        in_range,
        value: form.source(ty)?,
        by: form.source(Type::U32)?,
        bounds: form.source(Type::U32)?,
        mask: form.source(Type::B32)?,
    }))
}

impl Shuffle {
    /// Returns the lane that `lane` reads, and whether that is in range.
    fn source_of(&self, lane: i64, by: u64, bounds: u64) -> (i64, bool) {
        let by = (by & 0x1f).cast_signed();
        let clamp = (bounds & 0x1f).cast_signed();
        let segment = (bounds >> 8 & 0x1f).cast_signed();
        let last = lane & segment | clamp & !segment;
        let first = lane & segment;
        match self.direction {
            Direction::Up => (lane - by, lane - by >= last),
            Direction::Down => (lane + by, lane + by <= last),
            Direction::Butterfly => (lane ^ by, lane ^ by <= last),
            Direction::Index => {
                let from = first | by & !segment;
                (from, from <= last)
            }
        }
    }
}

impl Instruction for Shuffle {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.members(self.mask)?;
        let [values, by, bounds] = [self.value, self.by, self.bounds].map(|it| step.read(it));
        let mut results = [0; WARP];
        let mut in_range = [0; WARP];
        for lane in step.active.lanes() {
            let (from, inside) = self.source_of(lane as i64, by[lane], bounds[lane]);
            let from = if inside { from as usize } else { lane };
            if !step.active.has(from) {
                return Err(Fault::AbsentLane { lane, from });
            }
            results[lane] = values[from] & 0xffff_ffff;
            in_range[lane] = inside.into();
        }
        for (to, values) in [(self.to, results), (self.in_range, in_range)] {
            if let Some(to) = to {
                step.write(to, &values);
            }
        }
        Ok(Flow::Next)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    All,
    Any,
    Uniform,
    Ballot,
}

struct Vote {
    question: Question,
    to: Register,
    predicate: (Source, bool),
    mask: Source,
}

fn vote(form: &mut Form<'_>) -> Decoded {
    let question = form.needed(&[
        ("all", Question::All),
        ("any", Question::Any),
        ("uni", Question::Uniform),
        ("ballot", Question::Ballot),
    ])?;
    let _ = form.ty()?;
    Ok(Box::new(Vote {
        question,
        to: form.register()?,
        predicate: form.predicate()?,
        mask: form.source(Type::B32)?,
    }))
}

impl Instruction for Vote {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.members(self.mask)?;
        let (predicate, negated) = self.predicate;
        let predicate = step.read(predicate);
        let all = step.active;
        let yes = all.and(Mask::of(|lane| (predicate[lane] & 1 == 1) != negated));
        let answer = match self.question {
            Question::All => u32::from(yes == all),
            Question::Any => u32::from(!yes.is_empty()),
            Question::Uniform => u32::from(yes.is_empty() || yes == all),
            Question::Ballot => yes.0,
        };
        step.write(self.to, &[answer.into(); WARP]);
        Ok(Flow::Next)
    }
}

struct Matching {
    /// Whether all lanes must agree.
    all: bool,
    ty: Type,
    to: Option<Register>,
    agree: Option<Register>,
    value: Source,
    mask: Source,
}

fn matching(form: &mut Form<'_>) -> Decoded {
    let all = form.needed(&[("any", false), ("all", true)])?;
    let ty = form.ty()?;
    let (to, agree) = form.register_pair()?;
    Ok(Box::new(Matching {
        all,
        ty,
        to,
        agree,
        value: form.source(ty)?,
        mask: form.source(Type::B32)?,
    }))
}

impl Instruction for Matching {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.members(self.mask)?;
        let values = step.read(self.value).map(|bits| self.ty.narrowed(bits));
        let active = step.active;
        let mut equal = [0; WARP];
        for lane in active.lanes() {
            let same = active.and(Mask::of(|other| values[other] == values[lane]));
            equal[lane] = if self.all && same != active {
                0
            } else {
                same.0.into()
            };
        }
        for (to, values) in [
            (self.to, equal),
            (self.agree, equal.map(|mask| u64::from(mask != 0))),
        ] {
            if let Some(to) = to {
                step.write(to, &values);
            }
        }
        Ok(Flow::Next)
    }
}

struct Reduction {
    operation: Atomic,
    ty: Type,
    to: Register,
    value: Source,
    mask: Source,
}

fn reduction(form: &mut Form<'_>) -> Decoded {
    let operation = form.needed(ATOMICS)?;
    let ty = form.ty()?;
    if !matches!(ty, Type::B32 | Type::U32 | Type::S32) {
        return Err(format!("`redux` is not of {ty:?} here"));
    }
    Ok(Box::new(Reduction {
        operation,
        ty,
        to: form.register()?,
        value: form.source(ty)?,
        mask: form.source(Type::B32)?,
    }))
}

impl Instruction for Reduction {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        step.members(self.mask)?;
        let values = step.read(self.value);
        let joined = step
            .active
            .lanes()
            .map(|lane| self.ty.narrowed(values[lane]))
            .reduce(|joined, value| self.operation.apply(self.ty, joined, value));
        step.write(self.to, &[joined.unwrap_or(0); WARP]);
        Ok(Flow::Next)
    }
}

struct Elect {
    lane: Option<Register>,
    elected: Option<Register>,
    mask: Source,
}

impl Instruction for Elect {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let members = step.members(self.mask)?;
        let leader = members.and(step.active).lanes().next().unwrap_or(0);
        let mut elected = [0; WARP];
        elected[leader] = 1;
        for (to, values) in [(self.lane, [leader as u64; WARP]), (self.elected, elected)] {
            if let Some(to) = to {
                step.write(to, &values);
            }
        }
        Ok(Flow::Next)
    }
}
