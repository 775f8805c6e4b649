//! Branches, ends and barriers of a block (PTX ISA, "Control Flow Instructions", `barrier`).

use crate::instruction::form::{Decoded, Form};
use crate::machine::{Fault, Flow, Instruction, Source, Step};
use crate::syntax::Type;

/// An instruction that does nothing but say where the lanes go on.
struct Go(Flow);

impl Instruction for Go {
    fn execute(&self, _: &mut Step<'_>) -> Result<Flow, Fault> {
        Ok(self.0)
    }
}

/// `trap`
struct Trap;

impl Instruction for Trap {
    fn execute(&self, _: &mut Step<'_>) -> Result<Flow, Fault> {
        Err(Fault::Trap)
    }
}

/// `barrier.sync` of all threads of the block.
struct Barrier {
    /// How many threads it is said to be of.
    threads: Option<Source>,
}

/// Decodes one of them.
pub fn decode(form: &mut Form<'_>) -> Decoded {
    let stem = form.stem();
    match stem {
        "bra" => {
            form.ignore(&["uni"]);
            Ok(Box::new(Go(Flow::Jump(form.label()?))))
        }
        "ret" | "exit" => {
            form.ignore(&["uni"]);
            Ok(Box::new(Go(Flow::Exit)))
        }
        "trap" => Ok(Box::new(Trap)),
        "nop" => Ok(Box::new(Go(Flow::Next))),
        "griddepcontrol" => {
            // Launches of a stream run one after the other.
            form.ignore(&["wait", "launch_dependents"]);
            Ok(Box::new(Go(Flow::Next)))
        }
        _ => barrier(form),
    }
}

fn barrier(form: &mut Form<'_>) -> Decoded {
    form.ignore(&["cta", "aligned"]);
    if !form.take("sync") {
        return Err("of barriers of a block only `.sync` is here".to_owned());
    }
    match form.source(Type::U32)? {
        Source::Constant(0) => {}
        _ => return Err("of the barriers of a block only number 0 is here".to_owned()),
    }
    let threads = if form.operands_left() > 0 {
        Some(form.source(Type::U32)?)
    } else {
        None
    };
    Ok(Box::new(Barrier { threads }))
}

impl Instruction for Barrier {
    fn execute(&self, step: &mut Step<'_>) -> Result<Flow, Fault> {
        if let Some(threads) = self.threads {
            let all: u32 = step.launch.block.iter().product();
            let named = step.read(threads);
            if step.active.lanes().any(|lane| named[lane] as u32 != all) {
                let reason = "a barrier of a part of the block is not here";
                return Err(Fault::Undefined(reason.to_owned()));
            }
        }
        Ok(Flow::Wait)
    }
}
