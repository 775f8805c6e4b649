//! Writes the demo's data set: `demo-records DIR [--seed N] [--train N] [--held-out N]`.

/// The generator.
mod records;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

use records::DataSetConfig;

/// Write the demo's data set: spending notes in free English and their JSON records
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Directory that gets records-train.jsonl and records-held-out.jsonl
    output: PathBuf,
    /// Seed of the draw; the same seed gives the same bytes everywhere
    #[arg(long, default_value_t = DataSetConfig::default().seed)]
    seed: u64,
    /// Number of training rows
    #[arg(long, default_value_t = DataSetConfig::default().train)]
    train: usize,
    /// Number of held-out rows
    #[arg(long, default_value_t = DataSetConfig::default().held_out)]
    held_out: usize,
}

fn main() -> anyhow::Result<()> {
    let Args {
        output,
        seed,
        train,
        held_out,
    } = Args::parse();
    let data = records::generate(DataSetConfig {
        seed,
        train,
        held_out,
    })?;
    std::fs::create_dir_all(&output).with_context(|| format!("create {}", output.display()))?;
    for (name, rows) in [
        ("records-train.jsonl", &data.train),
        ("records-held-out.jsonl", &data.held_out),
    ] {
        let path = output.join(name);
        std::fs::write(&path, records::to_jsonl(rows)?)
            .with_context(|| format!("write {}", path.display()))?;
        println!("{}: {} rows", path.display(), rows.len());
    }
    Ok(())
}
