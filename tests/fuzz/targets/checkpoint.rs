//! The folder of a run: what it was started with, and its last checkpoint.

use crate::target::{Folder, fuzz};
use burn::tensor::Device;
use burn_finetune::{RecordedRun, RunDir, RunSettings, TrainConfig, Trainer, TrainerBuilder};
use burn_qlora::{LoraConfig, Targets, attach_adapters};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions};
use qlora_test_support::fixture;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

const CHECKPOINT: &str = "checkpoints/step-00000000";

fn lora() -> LoraConfig {
    LoraConfig::new(2, 4.0).with_targets(Targets::Names(vec!["q_proj".into()]))
}

fn trainer() -> Trainer<Decoder> {
    let checkpoint = Checkpoint::open(fixture("tiny_llama")).expect("a whole checkpoint");
    let device = Device::flex().autodiff();
    let mut model = Decoder::load(&checkpoint, &LoadOptions::default(), &device).expect("a model");
    attach_adapters(&mut model, &lora(), 1).expect("adapters");
    let builder = TrainerBuilder::new(model, TrainConfig::default());
    builder.and_then(TrainerBuilder::build).expect("a trainer")
}

fn settings() -> RunSettings {
    RunSettings::new(TrainConfig::default(), lora(), "tiny")
}

/// Saves a run, and returns its folder's path.
fn saved(folder: &Folder, trainer: &Trainer<Decoder>) -> PathBuf {
    let path = folder.path().join("run");
    let run = RunDir::create(&path, &settings()).expect("a run");
    run.save(trainer).expect("a checkpoint");
    path
}

fn resume(path: &Path, trainer: &mut Trainer<Decoder>) {
    let resumed = RecordedRun::open(path).and_then(|run| run.resume(&settings()));
    if let Ok(run) = resumed {
        let _ = run.restore(trainer);
    }
}

fn fuzz_file(name: &str) {
    let folder = Folder::new();
    let trainer = RefCell::new(trainer());
    let run = saved(&folder, &trainer.borrow());
    let file = run.join(name);
    let good = std::fs::read(&file).expect("a file of the run");
    fuzz(std::slice::from_ref(&good), |bytes| {
        std::fs::write(&file, bytes).expect("a file");
        resume(&run, &mut trainer.borrow_mut());
    });
}

#[test]
fn records_of_runs() {
    fuzz_file("run.json");
}

#[test]
fn states() {
    fuzz_file(&format!("{CHECKPOINT}/state.json"));
}

#[test]
fn moments() {
    fuzz_file(&format!("{CHECKPOINT}/optimizer.safetensors"));
}
