//! Writes the PTX of every kernel that CUDA devices of three generations would be given, without one.
//!
//! The launch functions run as they are, on a device that says it is a CUDA one, compiles what it is told to launch with
//! the compiler of a stock Burn, through LLVM, and runs nothing: what is written is what they choose.
//! `scripts/cuda-check.sh` assembles it.
//!
//! ```sh
//! cargo run --release -p qlora-cubecl --features cuda --example cuda_sources -- FOLDER
//! ```
//!
//! `exp` and its like are compiled in from NVIDIA's `libdevice.10.bc`, which is looked for below `CUDA_PATH`.

mod cases;
mod device;
mod fused;
mod recorder;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use cases::{Case, Operation};
use device::ARCHITECTURES;
use recorder::{Launched, Recorder};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: cuda_sources FOLDER")?;
    fs::create_dir_all(&folder)?;
    let mut kernels = Vec::new();
    for architecture in ARCHITECTURES {
        let recorder = Recorder::new(architecture);
        for (entry, kernel) in launched(&recorder, cases::all())? {
            let file = format!("{}_{entry}.ptx", architecture.version);
            fs::write(folder.join(&file), &kernel.0.ptx)?;
            kernels.push(described(architecture.version, &file, &kernel));
        }
    }
    write(&folder.join("kernels.json"), &kernels)?;
    println!("{} kernels in {}", kernels.len(), folder.display());
    Ok(())
}

/// A kernel, its packed words among its buffers, and the cases that launch it.
type Kernel = (Launched, Option<usize>, Vec<Case>);

/// Returns the kernels of the cases by their entry, which names the instance.
///
/// # Errors
/// What a launch returns, and that two kernels have one entry: CubeCL keeps kernels on disk by the hash in it.
fn launched(
    recorder: &Recorder,
    cases: Vec<Case>,
) -> Result<BTreeMap<String, Kernel>, Box<dyn Error>> {
    let mut kernels = BTreeMap::new();
    for case in cases {
        let (packed, launched) = recorder.record(|client| case.launch(client))?;
        let packed = packed?;
        for kernel in launched {
            let position = packed.as_ref().and_then(|packed| kernel.position(packed));
            // A layer's product with the weight is listed as that, and what the weights of files share with others as theirs.
            let is_secondary = |case: &Case| {
                let operation = case.operation;
                let is_of_layer = matches!(
                    operation,
                    Operation::LowRank(_) | Operation::LowRankBackward(_)
                );
                is_of_layer || case.is_of_file()
            };
            let listed = kernels.get(&kernel.entry);
            if listed.is_some_and(|(_, _, cases): &Kernel| !is_secondary(&cases[0]))
                && is_secondary(&case)
            {
                continue;
            }
            if listed.is_some_and(|(listed, _, _)| listed.source != kernel.source) {
                return Err(format!("two kernels are named {}: {case}", kernel.entry).into());
            }
            let (_, _, cases) = kernels
                .entry(kernel.entry.clone())
                .or_insert_with(|| (kernel, position, Vec::new()));
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
    }
    Ok(kernels)
}

fn described(version: u32, file: &str, (kernel, packed, cases): &Kernel) -> Value {
    let code_bits = cases[0].code_bits();
    let cases: Vec<_> = cases
        .iter()
        .map(|case| {
            json!({
                "operation": case.to_string(),
                "dtype": format!("{:?}", case.dtype).to_lowercase(),
                "rows": match case.operation {
                    Operation::Matmul(_, rows)
                    | Operation::LowRank(rows)
                    | Operation::LowRankBackward(rows) => Some(rows),
                    _ => None,
                },
                "shape": case.shape,
                "double_quant": !case.has_plain_scales(),
            })
        })
        .collect();
    json!({
        "file": file,
        "architecture": version,
        "entry": kernel.entry,
        "threads": kernel.threads,
        "dynamic_shared": kernel.dynamic_shared,
        "packed_buffer": packed,
        "code_bits": code_bits,
        "cases": cases,
    })
}

fn write(path: &Path, kernels: &[Value]) -> Result<(), Box<dyn Error>> {
    Ok(fs::write(path, serde_json::to_vec_pretty(kernels)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fused_instance_has_an_entry_of_its_own() {
        let mut cases = cases::all();
        cases.retain(|case| matches!(case.operation, Operation::Fused(_)));
        let kernels = launched(&Recorder::new(ARCHITECTURES[0]), cases).unwrap();
        assert!(!kernels.is_empty());
    }
}
