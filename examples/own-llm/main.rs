//! A language model of one's own in burn-finetune's trainer: it derives `LoraModel` (which layers are quantized and carry
//! adapters), implements `CausalLm` (its loss on a batch of tokens), and gets data, schedule, clipping, paged AdamW,
//! checkpoints and evaluation. It has learnt to go on with rows of letters, and adapters teach it to go backwards.
//!
//! ```text
//! cargo run --release --example own-llm [DIRECTORY FOR THE ADAPTER]
//! ```

mod model;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_finetune::{
    Dataset, Event, Row, RunOptions, ScheduleKind, TrainConfig, Trainer, evaluate,
};
use burn_qlora::{CausalLm, LoraConfig, LoraModel, QuantConfig, TokenBatch, attach_adapters, peft};

use crate::model::Decoder;

const ALPHABET: usize = 26;
const WIDTH: usize = 64;
const BLOCKS: usize = 2;
const LENGTH: usize = 12;
const BATCH: usize = 13;

/// Returns rows of letters, numbered from 0, that go on by one to three letters at a time from any letter: "bdfhjlnprtvx". Those that
/// begin with one of the last letters of the alphabet are the held-out ones.
fn rows(backwards: bool, held_out: bool) -> Vec<Vec<u32>> {
    let row = |first: usize, step: usize| {
        let step = if backwards { ALPHABET - step } else { step };
        let letters = (0..LENGTH).map(|place| (first + place * step) % ALPHABET);
        letters.map(|letter| letter as u32).collect()
    };
    let firsts = if held_out { 20..26 } else { 0..20 };
    firsts
        .flat_map(|first| (1..4).map(move |step| row(first, step)))
        .collect()
}

fn dataset(rows: Vec<Vec<u32>>) -> Dataset {
    Dataset::from_rows(rows.into_iter().map(Row::all).collect())
}

/// Trains a model as a whole, which is what a user has: here is where a checkpoint would be loaded.
fn pretrained(device: &Device) -> Decoder {
    device.seed(1);
    let mut model = Decoder::new(ALPHABET, WIDTH, BLOCKS, LENGTH, device);
    let ids: Vec<u32> = rows(false, false).concat();
    let ids = TensorData::new(ids, [60, LENGTH]).convert::<i64>();
    let ids = Tensor::<2, Int>::from_data(ids, device);
    let batch = TokenBatch {
        input_ids: ids.clone().slice([0..60, 0..LENGTH - 1]),
        starts: None,
        targets: ids.slice([0..60, 1..LENGTH]),
    };
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..100 {
        let loss = model
            .loss_sum(&batch)
            .div_scalar(60.0 * (LENGTH - 1) as f64);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }
    model
}

/// Trains adapters, saves them to `dir`, and returns the loss of a token of held-out rows before and after.
fn train(dir: &Path) -> Result<(f64, f64)> {
    let mut model = pretrained(&Device::flex().autodiff());
    let forwards = evaluate(&model, &dataset(rows(false, true)), BATCH)?.nll;
    println!("loss {forwards:.4} of rows that go forwards");
    model.quantize(&QuantConfig::default())?;
    let lora = LoraConfig::new(8, 16.0);
    attach_adapters(&mut model, &lora, 0)?;
    // `Dataset::read` makes rows from JSONL files with a tokenizer.
    let (data, held_out) = (dataset(rows(true, false)), dataset(rows(true, true)));
    let before = evaluate(&model, &held_out, BATCH)?.nll;

    let config = TrainConfig {
        steps: 150,
        batch_size: BATCH,
        lr: 1e-2,
        schedule: ScheduleKind::Cosine,
        max_grad_norm: 1.0,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, config)?;
    trainer.run(&data, &RunOptions::default(), &mut |event| {
        if let Event::Step(report) = event
            && report.step % 25 == 0
        {
            println!("step {:>3}: loss {:.4}", report.step, report.loss);
        }
    })?;
    let model = trainer.into_model();
    peft::save(&model, &lora, "a-decoder", dir)?;
    Ok((before, evaluate(&model, &held_out, BATCH)?.nll))
}

fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("own-llm"), PathBuf::from);
    let (before, after) = train(&dir)?;
    println!("loss {before:.4} before, {after:.4} after");
    println!("the adapter is in {}", dir.display());
    ensure!(
        after < 0.2 * before,
        "the adapters should have learnt to go backwards"
    );
    Ok(())
}

#[test]
fn the_loss_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = train(dir.path()).unwrap();
    assert!(after < 0.2 * before, "{before} before, {after} after");
}
