//! Runs the block in the middle of each launch that was written down, and writes what it did beside it.
//!
//! ```sh
//! ptx-counters FOLDER      # reads launches.json and the PTX that it names, writes counters.json
//! ```

use ptx_device::machine::Counters;
use ptx_device::replay::Recorded;
use rayon::prelude::*;
use serde::Deserialize;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The most instructions of warps that a block may take.
const BUDGET: u64 = 100_000_000;

/// A launch and the file that its kernel is in.
#[derive(Deserialize)]
struct Launch {
    file: PathBuf,
    #[serde(flatten)]
    recorded: Recorded,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: ptx-counters FOLDER")?;
    let launches: Vec<Launch> = serde_json::from_slice(&fs::read(folder.join("launches.json"))?)?;
    let counted: Result<Vec<Counters>, String> = launches
        .par_iter()
        .map(|launch| counters(&folder, launch))
        .collect();
    fs::write(
        folder.join("counters.json"),
        serde_json::to_vec_pretty(&counted?)?,
    )?;
    Ok(())
}

fn counters(folder: &Path, launch: &Launch) -> Result<Counters, String> {
    let file = folder.join(&launch.file);
    let told = |error: &dyn Error| format!("{}: {error}", file.display());
    let ptx = fs::read_to_string(&file).map_err(|error| told(&error))?;
    launch
        .recorded
        .run_middle_block(&ptx, BUDGET)
        .map_err(|error| told(&error))
}
