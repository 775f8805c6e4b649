//! QLoRA in a module and a training loop of one's own: a small network has learnt one task, its linear layers are
//! frozen in 4 bits, and LoRA adapters on them learn another. The adapters are saved as Hugging Face peft saves them.
//!
//! ```text
//! cargo run --release --example qlora-linear [DIRECTORY FOR THE ADAPTER]
//! ```

mod model;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};
use burn_qlora::{LoraConfig, LoraModel, QuantConfig, attach_adapters, freeze_base, peft};

use crate::model::Net;

const INPUTS: usize = 64;
const HIDDEN: usize = 256;
const OUTPUTS: usize = 16;
const STEPS: usize = 100;
const LEARNING_RATE: f64 = 1e-2;

/// Trains the network as a whole on the first task, which is what a user has: here is where a checkpoint would be loaded. Returns it
/// in 4 bits, the same at every call.
fn pretrained(x: Tensor<2>, y: Tensor<2>) -> Result<Net> {
    x.device().seed(1);
    let mut net = Net::new([INPUTS, HIDDEN, OUTPUTS], &x.device());
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..STEPS {
        let predicted = net.forward(x.clone());
        let loss = MseLoss::new().forward(predicted, y.clone(), Reduction::Mean);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(LEARNING_RATE, net, gradients);
    }
    net.quantize(&QuantConfig::default())?;
    Ok(net)
}

/// Trains adapters, saves them to `dir`, loads them again, and returns the first and the last loss.
fn train(dir: &Path) -> Result<(f32, f32)> {
    // Any device will do that Burn and burn-qlora have the feature of.
    let device = Device::flex().autodiff();
    device.seed(0);
    let x = Tensor::random([128, INPUTS], Distribution::Normal(0.0, 1.0), &device);
    let map = Tensor::random([INPUTS, OUTPUTS], Distribution::Normal(0.0, 0.1), &device);
    let first = x.clone().matmul(map);
    let mut net = pretrained(x.clone(), first.clone())?;
    let config = LoraConfig::new(8, 16.0);
    attach_adapters(&mut net, &config, 0)?;
    // The adapters alone train; the packed weights never do.
    let mut net = freeze_base(net);

    // The new task: the same outputs in another order, with another sign.
    let y = -first.clone().flip([1]);

    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let predicted = net.forward(x.clone());
        let loss = MseLoss::new().forward(predicted, y.clone(), Reduction::Mean);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(LEARNING_RATE, net, gradients);
        losses.push(loss.into_scalar::<f32>());
        if step % 20 == 0 {
            println!("step {step:>3}: loss {:.4}", losses[step]);
        }
    }

    peft::save(&net, &config, "a-small-network", dir)?;
    let mut again = pretrained(x.clone(), first)?;
    peft::load(&mut again, dir)?;
    let difference = (again.forward(x.clone()) - net.forward(x)).abs().max();
    ensure!(
        difference.into_scalar::<f32>() == 0.0,
        "the adapter should load as it was saved"
    );
    Ok((losses[0], losses[STEPS - 1]))
}

fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("qlora-linear"), PathBuf::from);
    let (first, last) = train(&dir)?;
    println!("loss {first:.4} before, {last:.4} after");
    println!("the adapter is in {}", dir.display());
    ensure!(
        last < 0.2 * first,
        "the adapters should have learnt the task"
    );
    Ok(())
}

#[test]
fn the_loss_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let (first, last) = train(dir.path()).unwrap();
    assert!(last < 0.2 * first, "{first} before, {last} after");
}
