//! Small kernels, run.

use ptx_device::machine::{Allocations, FaultAt, Launch, Outcome, Program, WARP};
use ptx_device::syntax::Module;
use std::collections::HashMap;

/// The words of 64 bits that a thread has for itself, in and out.
pub const SLOTS: usize = 8;

/// Returns a module with one kernel of that body. Before it, `%in` holds the address of the thread's [`SLOTS`] words to read and `%out` that
/// of those to write; `%rd`, `%r`, `%rs`, `%f`, `%d`, `%p` are registers from 0 to 31, and `block` is shared memory of 4 KiB.
pub fn module(body: &str) -> String {
    format!(
        ".version 8.7
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 from, .param .u64 to)
{{
    .reg .b64 %rd<32>, %in, %out;
    .reg .b32 %r<32>, %thread;
    .reg .f32 %f<32>;
    .reg .f64 %d<32>;
    .reg .b16 %rs<32>;
    .reg .pred %p<32>;
    .shared .align 16 .b8 block[4096];
    ld.param.u64 %in, [from];
    ld.param.u64 %out, [to];
    mov.u32 %thread, %tid.x;
    mad.wide.u32 %in, %thread, {bytes}, %in;
    mad.wide.u32 %out, %thread, {bytes}, %out;
    {body}
    ret;
}}",
        bytes = 8 * SLOTS
    )
}

/// What a kernel left.
pub struct Ran {
    /// The words of each thread.
    pub words: Vec<[u64; SLOTS]>,
    /// What it did.
    pub outcome: Outcome,
}

/// Runs a kernel of that body with a thread for each of `inputs`.
pub fn run(body: &str, inputs: &[[u64; SLOTS]]) -> Result<Ran, FaultAt> {
    let module = Module::parse(&module(body)).expect("the text should be PTX");
    let entry = &module.entries["kernel"];
    let program = Program::new(entry, &HashMap::new()).unwrap_or_else(|error| panic!("{error}"));
    let mut words = vec![[0u64; SLOTS]; inputs.len()];
    let bytes = size_of_val(inputs) as u64;
    let [from, to] = [inputs.as_ptr() as u64, words.as_mut_ptr() as u64];
    // SAFETY: both outlive the launch, and nobody else touches them before it has ended.
    let memory = unsafe { Allocations::new([(from, bytes), (to, bytes)]) };
    let parameters: Vec<u8> = [from, to].into_iter().flat_map(u64::to_le_bytes).collect();
    let launch = Launch {
        program: &program,
        grid: [1; 3],
        block: [inputs.len() as u32, 1, 1],
        dynamic_shared: 0,
        parameters: &parameters,
        memory: &memory,
        checked: true,
        budget: 100_000,
    };
    launch.run().map(|outcome| Ran { words, outcome })
}

/// Runs a kernel of that body for one warp whose lanes' inputs `input` gives, and returns their first words.
pub fn warp(body: &str, input: impl Fn(u64) -> [u64; SLOTS]) -> [u64; WARP] {
    let inputs: Vec<_> = (0..WARP as u64).map(input).collect();
    let ran = run(body, &inputs).unwrap_or_else(|fault| panic!("{fault}"));
    std::array::from_fn(|lane| ran.words[lane][0])
}

/// Runs an instruction on operands, each a word of its own, in one thread. `ty` is the type that the operands are loaded as and the result
/// is stored as; `sources` register names come from `%a`, `%b`, `%c`, `%d4` in order and the result is `%result`.
pub fn one(instruction: &str, ty: &str, operands: &[u64]) -> u64 {
    of_types(instruction, ty, &vec![ty; operands.len()], operands)
}

/// As [`one`] with the type of the result and those of the operands.
pub fn of_types(instruction: &str, result: &str, types: &[&str], operands: &[u64]) -> u64 {
    let names = ["%a", "%b", "%c", "%e"];
    let mut body = format!(".reg .{} %result;", register(result));
    for (place, ty) in types.iter().enumerate() {
        body += &format!(
            ".reg .{} {name}; ld.global.{memory} {name}, [%in + {offset}];",
            register(ty),
            name = names[place],
            memory = register(ty),
            offset = 8 * place
        );
    }
    body += &format!(
        "{instruction}; st.global.{} [%out], %result;",
        register(result)
    );
    let mut input = [0; SLOTS];
    input[..operands.len()].copy_from_slice(operands);
    let ran = run(&body, &[input]).unwrap_or_else(|fault| panic!("{fault}"));
    ran.words[0][0]
}

/// Returns the bits that a register of a type has.
fn register(ty: &str) -> &'static str {
    match ty {
        "f64" | "u64" | "s64" | "b64" => "b64",
        "f16" | "bf16" | "u16" | "s16" | "b16" => "b16",
        _ => "b32",
    }
}
