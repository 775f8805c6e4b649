//! What is written: PTX, a file a kernel; what the kernels and the launches of calls are.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cases::{Case, Operation};
use crate::device::Architecture;
use crate::recorder::{Launched, Recorder};

/// A kernel, its packed words among its buffers, and the cases that launch it.
type Kernel = (Launched, Option<usize>, Vec<Case>);

/// A folder and what its lists will be.
pub struct Sources {
    folder: PathBuf,
    recorders: BTreeMap<u32, Recorder>,
    kernels: Vec<Value>,
    calls: Vec<Value>,
    launches: Vec<Value>,
}

impl Sources {
    /// Makes the folder.
    pub fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            recorders: BTreeMap::new(),
            kernels: Vec::new(),
            calls: Vec::new(),
            launches: Vec::new(),
        })
    }

    /// Adds every kernel of the cases, with the first launch of it.
    ///
    /// # Errors
    /// See [`launched`], and those of writing files.
    pub fn add_kernels(
        &mut self,
        architecture: Architecture,
        cases: Vec<Case>,
    ) -> Result<(), Box<dyn Error>> {
        let kernels = launched(self.recorder(architecture), cases)?;
        for (kernel, packed, cases) in kernels.into_values() {
            let launch = self.add_launch(architecture, &kernel)?;
            let code_bits = cases[0].code_bits();
            let cases: Vec<_> = cases.iter().map(described).collect();
            self.kernels.push(json!({
                "architecture": architecture.version,
                "launch": launch,
                "packed_buffer": packed,
                "code_bits": code_bits,
                "cases": cases,
            }));
        }
        Ok(())
    }

    /// Adds the launches of each case.
    ///
    /// # Errors
    /// What a launch returns, and those of writing files.
    pub fn add_calls(
        &mut self,
        architecture: Architecture,
        cases: Vec<Case>,
    ) -> Result<(), Box<dyn Error>> {
        for case in cases {
            let recorder = self.recorder(architecture);
            let (result, launched) = recorder.record(|client| case.launch(client))?;
            result?;
            let launches: Vec<usize> = launched
                .iter()
                .map(|kernel| self.add_launch(architecture, kernel))
                .collect::<Result<_, _>>()?;
            self.calls.push(json!({
                "architecture": architecture.version,
                "case": described(&case),
                "launches": launches,
            }));
        }
        Ok(())
    }

    fn recorder(&mut self, architecture: Architecture) -> &Recorder {
        let recorders = self.recorders.entry(architecture.version);
        recorders.or_insert_with(|| Recorder::new(architecture))
    }

    /// Writes a kernel and returns the number of its launch.
    fn add_launch(
        &mut self,
        architecture: Architecture,
        kernel: &Launched,
    ) -> Result<usize, Box<dyn Error>> {
        let file = format!("{}_{}.ptx", architecture.version, kernel.entry);
        fs::write(self.folder.join(&file), &kernel.ptx)?;
        self.launches.push(json!({
            "file": file,
            "entry": kernel.entry,
            "grid": kernel.grid,
            "block": kernel.block,
            "dynamic_shared": kernel.dynamic_shared,
            "parameters": kernel.parameters(),
        }));
        Ok(self.launches.len() - 1)
    }

    /// Writes the lists, and returns what they are of.
    pub fn write(self) -> Result<String, Box<dyn Error>> {
        for (name, list) in [
            ("kernels.json", &self.kernels),
            ("calls.json", &self.calls),
            ("launches.json", &self.launches),
        ] {
            fs::write(self.folder.join(name), serde_json::to_vec_pretty(list)?)?;
        }
        let (kernels, calls) = (self.kernels.len(), self.calls.len());
        Ok(format!("{kernels} kernels and {calls} calls"))
    }
}

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

fn described(case: &Case) -> Value {
    json!({
        "operation": case.to_string(),
        "dtype": case.type_name(),
        "rows": case.rows(),
        "shape": case.shape,
        "double_quant": !case.has_plain_scales(),
    })
}

#[cfg(test)]
mod tests {
    use super::launched;
    use crate::cases::{self, Operation};
    use crate::device::ARCHITECTURES;
    use crate::recorder::Recorder;

    #[test]
    fn every_fused_instance_has_an_entry_of_its_own() {
        let mut cases = cases::all();
        cases.retain(|case| matches!(case.operation, Operation::Fused(_)));
        let kernels = launched(&Recorder::new(ARCHITECTURES[0]), cases).unwrap();
        assert!(!kernels.is_empty());
    }
}
