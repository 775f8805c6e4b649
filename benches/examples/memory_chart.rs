//! Draws peak memory against sequence length from `benches/charts/memory.csv`, one line for each dtype and
//! kind of checkpointing: `cargo run -p qlora-benches --example memory_chart`. It draws and times nothing, so it is no bench.
//!
//! The file's figures are the last line of `finetune train --model SmolLM2-135M-Instruct.Q4_1.gguf --data TEXT
//! --batch-size 1 --rank 16 --seq-len N [--checkpointing layer] [--compute-dtype bf16]`. `QLORA_CHARTS` names the folder to
//! write to.

use std::error::Error;
use std::path::Path;

use qlora_benches::chart::{LineChart, write};
use qlora_benches::charts_dir;

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/memory.csv");
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let mut lengths: Vec<f64> = Vec::new();
    for row in std::fs::read_to_string(path)?.lines().skip(1) {
        let [dtype, checkpointing, length, megabytes] = row.split(',').collect::<Vec<_>>()[..]
        else {
            return Err(format!("four columns are expected, not: {row}").into());
        };
        let point: (f64, f64) = (length.parse()?, megabytes.parse()?);
        if !lengths.contains(&point.0) {
            lengths.push(point.0);
        }
        let name = format!("{dtype}, checkpointing {checkpointing}");
        match lines.iter_mut().find(|line| line.0 == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    let chart = LineChart {
        title: "Peak resident memory of a training step, SmolLM2-135M, batch 1, rank 16".into(),
        x_axis: "tokens in the row".into(),
        y_axis: "MB".into(),
        x_ticks: lengths,
        lines,
    };
    write(&charts_dir().join("memory.svg"), &chart.svg())?;
    Ok(())
}
