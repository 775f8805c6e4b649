//! A classifier of texts, of Burn's parts, made 4-bit and trained by Burn's `Learner`: it has learnt to tell praise from blame,
//! and adapters teach it irony. The paged optimizer's moments are in the `Learner`'s checkpoints with all else.
//!
//! ```text
//! cargo run --release --example text-classifier [DIRECTORY]
//! ```

mod encoder;
mod model;
mod reviews;
mod training;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use burn::train::Interrupter;
use burn_paged::{Budget, PagedAdamWConfig};
use burn_qlora::{LoraConfig, LoraModel, QuantConfig, attach_adapters, freeze_base, peft};

use crate::model::{Batch, Classifier};
use crate::reviews::{ReviewBatcher, VOCABULARY, reviews};
use crate::training::{Course, fit};

const WIDTH: usize = 64;
const BLOCKS: usize = 2;
const BATCH: usize = 32;
const STEPS: usize = 16;

/// Returns batches of reviews to learn from, and of others.
fn loaders(irony: bool, device: &Device) -> [Arc<dyn DataLoader<Batch>>; 2] {
    [(STEPS * BATCH, 1), (256, 2)].map(|(count, seed)| {
        let data = InMemDataset::new(reviews(count, irony, seed));
        let loader = DataLoaderBuilder::new(ReviewBatcher).batch_size(BATCH);
        loader.set_device(device.clone()).build(data)
    })
}

/// Returns the part of the reviews that `net` understands.
fn accuracy(net: &Classifier, loader: &Arc<dyn DataLoader<Batch>>) -> Result<f64> {
    let mut right = 0;
    for batch in loader.iter() {
        let batch = batch?;
        let found = net.forward(batch.words).argmax(1).squeeze_dim::<1>(1);
        right += found.equal(batch.classes).int().sum().into_scalar::<i64>();
    }
    Ok(right as f64 / loader.num_items() as f64)
}

/// Trains the model dense, quantizes it, trains adapters, saves them below `directory`, and returns the part of reviews with irony
/// that is understood before and after.
fn train(directory: &Path) -> Result<(f64, f64)> {
    let device = Device::flex();
    let course = |directory, epochs, lr| Course {
        directory,
        epochs,
        steps: STEPS,
        lr,
        resume: None,
        interrupter: Interrupter::new(),
    };

    // What a user has: a model that was trained as a whole.
    device.seed(1);
    let net = Classifier::new(VOCABULARY, WIDTH, BLOCKS, &device.clone().autodiff());
    let adamw = AdamWConfig::new().init();
    let dense = directory.join("dense");
    let net = fit(
        net,
        adamw,
        loaders(false, &device),
        &course(&dense, 3, 3e-3),
    )?;
    let ironic = loaders(true, &device);
    let before = accuracy(&net, &ironic[1])?;

    let mut net = net.train();
    net.quantize(&QuantConfig::default())?;
    let lora = LoraConfig::new(8, 16.0);
    attach_adapters(&mut net, &lora, 0)?;
    let net = freeze_base(net);
    let paged = PagedAdamWConfig::new()
        .with_weight_decay(0.0)
        .with_budget(Budget::Fraction(0.5))
        .build()?;
    let adapted = directory.join("adapted");
    let course = course(&adapted, 16, 3e-3);
    let net = fit(net, ModuleOptimizer::from(paged), ironic.clone(), &course)?;
    peft::save(&net, &lora, "a-text-classifier", directory.join("adapter"))?;
    Ok((before, accuracy(&net, &ironic[1])?))
}

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(
        || std::env::temp_dir().join("text-classifier"),
        PathBuf::from,
    );
    let (before, after) = train(&directory)?;
    println!(
        "{:.0} % right before, {:.0} % after",
        100.0 * before,
        100.0 * after
    );
    println!("the adapter is in {}", directory.join("adapter").display());
    ensure!(after > 0.9, "the adapters should have learnt irony");
    Ok(())
}

#[test]
fn irony_is_learnt() {
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = train(directory.path()).unwrap();
    assert!(
        before < 0.6 && after > 0.9,
        "{before} before, {after} after"
    );
}
