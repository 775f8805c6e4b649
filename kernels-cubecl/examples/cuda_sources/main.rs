//! Writes the PTX of every kernel that CUDA devices of three generations would be given, without one.
//!
//! The launch functions run as they are, on a device that says it is a CUDA one, compiles what it is told to launch with
//! the compiler of a stock Burn, through LLVM, and runs nothing: what is written is what they choose.
//! `scripts/cuda-check.sh` assembles it, and has the software CUDA device run a block of each.
//!
//! ```sh
//! cargo run --release -p qlora-cubecl --features cuda --example cuda_sources -- FOLDER [WORDS]...
//! ```
//!
//! With WORDS, only of the calls in whose names all of them are, such as `'x · Wᵀ, m 16'`, `'4096 × 11008'`, `f16` or `sm_90`.
//! `exp` and its like are compiled in from NVIDIA's `libdevice.10.bc`, which is looked for below `CUDA_PATH`.

mod cases;
mod device;
mod fused;
mod recorder;
mod sources;

use std::error::Error;
use std::path::PathBuf;

use cases::Case;
use device::{ARCHITECTURES, Architecture, PREDICTED};
use sources::Sources;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map(PathBuf::from);
    let folder = folder.ok_or("usage: cuda_sources FOLDER [WORDS]...")?;
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let is_asked_for = |case: &Case, architecture: Architecture| {
        let name = format!("{}, sm_{}", case.name(), architecture.version);
        words.iter().all(|word| name.contains(word))
    };
    let mut sources = Sources::new(&folder)?;
    for architecture in ARCHITECTURES {
        let mut cases = cases::all();
        cases.retain(|case| is_asked_for(case, architecture));
        sources.add_kernels(architecture, cases)?;
    }
    for architecture in PREDICTED {
        let mut cases = cases::of_layers();
        cases.retain(|case| is_asked_for(case, architecture));
        sources.add_calls(architecture, cases)?;
    }
    println!("{} in {}", sources.write()?, folder.display());
    Ok(())
}
