//! What is done in each lane apart.

use crate::machine::{
    Fault, Flow, Instruction, Lanes, Source, Step, WARP, Word, map, map2, map3, map4,
};
use crate::syntax::Register;

/// From the values of the sources in all lanes to the result in all lanes.
pub type Function = Box<dyn Fn(&[Lanes]) -> Lanes + Send + Sync>;

/// A function of one value a lane.
pub fn one<A: Word, R: Word>(f: impl Fn(A) -> R + Send + Sync + 'static) -> Function {
    Box::new(move |from| map(&from[0], &f))
}

/// A function of two values a lane.
pub fn two<A: Word, B: Word, R: Word>(f: impl Fn(A, B) -> R + Send + Sync + 'static) -> Function {
    Box::new(move |from| map2(&from[0], &from[1], &f))
}

/// A function of three values a lane.
pub fn three<A: Word, B: Word, C: Word, R: Word>(
    f: impl Fn(A, B, C) -> R + Send + Sync + 'static,
) -> Function {
    Box::new(move |from| map3([&from[0], &from[1], &from[2]], &f))
}

/// A function of four values a lane.
pub fn four<A: Word, B: Word, C: Word, D: Word, R: Word>(
    f: impl Fn(A, B, C, D) -> R + Send + Sync + 'static,
) -> Function {
    Box::new(move |from| map4([&from[0], &from[1], &from[2], &from[3]], &f))
}

/// An instruction whose result in a lane depends on that lane's values alone. It is computed in all lanes and kept in those
/// that take part.
pub struct Lanewise {
    /// The destination.
    pub to: Register,
    /// The sources, at most four.
    pub from: Vec<Source>,
    /// What is computed.
    pub function: Function,
}

impl Instruction for Lanewise {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        let mut values = [[0; WARP]; 4];
        for (value, source) in values.iter_mut().zip(&self.from) {
            *value = step.read(*source);
        }
        let result = (self.function)(&values[..self.from.len()]);
        step.write(self.to, &result);
        Ok(Flow::Next)
    }
}

/// Returns what `$body` is for the integer type `$ty`, which it knows as `$word`; for another type, none.
macro_rules! for_integers {
    ($ty:expr, $word:ident => $body:expr) => {{
        use $crate::syntax::Type;
        match $ty {
            Type::B16 | Type::U16 => {
                type $word = u16;
                Some($body)
            }
            Type::B32 | Type::U32 => {
                type $word = u32;
                Some($body)
            }
            Type::B64 | Type::U64 => {
                type $word = u64;
                Some($body)
            }
            Type::S16 => {
                type $word = i16;
                Some($body)
            }
            Type::S32 => {
                type $word = i32;
                Some($body)
            }
            Type::S64 => {
                type $word = i64;
                Some($body)
            }
            _ => None,
        }
    }};
}

pub(super) use for_integers;
