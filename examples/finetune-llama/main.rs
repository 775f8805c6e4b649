//! A LLaMA loaded in 4 bits and fine-tuned from Rust, as the binary `finetune` does it from the command line.
//!
//! ```text
//! cargo run --release --example finetune-llama [MODEL] [DIRECTORY FOR THE ADAPTER]
//! ```
//!
//! MODEL is a Hugging Face directory or a .gguf file; without one a tiny model of the test suite is taken.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::tensor::Device;
use burn_finetune::{Dataset, Event, Row, RunOptions, TrainConfig, TrainerBuilder, evaluate};
use burn_qlora::{Checkpointing, LoraConfig, QuantConfig, attach_adapters, peft};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions};

/// bitsandbytes' 4-bit weights, which are kept to the bit.
const TINY_LLAMA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/fixtures/tiny_llama_nf4"
);
const ROWS_AT_ONCE: usize = 4;

/// Returns rows in which every token follows from the one before it. `Dataset::read` makes rows from JSONL files with
/// `checkpoint.tokenizer()`.
fn rows(vocab: usize) -> Dataset {
    let row = |first: usize| {
        let ids = (0..24).scan(first, |id, _| {
            *id = (*id * 5 + 3) % vocab;
            Some(*id as u32)
        });
        Row::all(ids.collect())
    };
    Dataset::from_rows((0..8).map(|index| row(index * 7)).collect())
}

/// Trains adapters on the model at `path`, saves them to `dir`, and returns the loss of a token before and after.
fn train(path: &Path, dir: &Path) -> Result<(f64, f64)> {
    let checkpoint = Checkpoint::open(path)?;
    let data = rows(checkpoint.config().vocab_size);

    // The weights go from the file to the device one by one; those that are not in 4 bits yet are quantized.
    let options = LoadOptions::quantized(QuantConfig::default());
    let mut model = Decoder::load(&checkpoint, &options, &Device::flex().autodiff())?;
    let lora = LoraConfig::new(16, 32.0);
    attach_adapters(&mut model, &lora, 0)?;
    let before = evaluate(&model, &data, ROWS_AT_ONCE)?.nll;

    let config = TrainConfig {
        steps: 30,
        batch_size: ROWS_AT_ONCE,
        lr: 1e-2,
        max_grad_norm: 1.0,
        ..TrainConfig::default()
    };
    // Blocks run twice and keep only their inputs: the same numbers in less memory.
    let mut trainer = TrainerBuilder::new(model, config)?
        .with_checkpointing(Checkpointing::Layer)?
        .build()?;
    trainer.run(&data, &RunOptions::default(), &mut |event| {
        if let Event::Step(report) = event
            && report.step % 10 == 0
        {
            println!("step {:>2}: loss {:.4}", report.step, report.loss);
        }
    })?;
    let model = trainer.into_model();
    peft::save(&model, &lora, &path.display().to_string(), dir)?;
    Ok((before, evaluate(&model, &data, ROWS_AT_ONCE)?.nll))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments.next().unwrap_or_else(|| TINY_LLAMA.into());
    let dir = arguments
        .next()
        .unwrap_or_else(|| std::env::temp_dir().join("finetune-llama"));
    let (before, after) = train(&model, &dir)?;
    println!("loss {before:.4} before, {after:.4} after");
    println!("the adapter is in {}", dir.display());
    ensure!(
        after < 0.5 * before,
        "the adapters should have learnt the rows"
    );
    Ok(())
}

#[test]
fn the_loss_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = train(TINY_LLAMA.as_ref(), dir.path()).unwrap();
    assert!(after < 0.5 * before, "{before} before, {after} after");
}
