//! Runs into folders.

use crate::support::{Toy, config, lora, rows};
use burn_finetune::{Event, Outcome, RecordedRun, RunDir, RunOptions, RunSettings, Trainer};
use std::cell::Cell;
use std::path::Path;

pub const DROPOUT: f64 = 0.2;

pub fn settings() -> RunSettings {
    RunSettings::new(config(13), lora(DROPOUT), "toy")
}

pub fn create(path: &Path) -> RunDir {
    RunDir::create(path, &settings()).unwrap()
}

pub fn resume(path: &Path) -> RunDir {
    let recorded = RecordedRun::open(path).unwrap();
    recorded.resume(&settings()).unwrap()
}

/// Losses of the steps until the end, or until `stop` steps are done.
pub fn run(
    trainer: &mut Trainer<Toy>,
    run_dir: &RunDir,
    stop: Option<usize>,
) -> (Outcome, Vec<f64>, Vec<usize>) {
    let done = Cell::new(0);
    let mut losses = Vec::new();
    let mut saved = Vec::new();
    let interrupted = || stop == Some(done.get());
    let options = RunOptions {
        run_dir: Some(run_dir),
        save_every: Some(4),
        interrupted: Some(&interrupted),
        ..RunOptions::default()
    };
    let outcome = trainer
        .run(&rows(10), &options, &mut |event| match event {
            Event::Step(report) => {
                done.set(report.step);
                losses.push(report.loss);
            }
            Event::Saved { step, path } => {
                assert!(path.is_dir());
                saved.push(step);
            }
            _ => (),
        })
        .unwrap();
    (outcome, losses, saved)
}
