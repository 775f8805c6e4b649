//! A vision transformer made 4-bit, in a training loop of one's own: it has learnt in which of four directions stripes run, and
//! adapters teach it the same for a camera that is mounted at an angle of 45 degrees.
//!
//! ```text
//! cargo run --release --example vision-transformer [DIRECTORY FOR THE ADAPTER]
//! ```

#[path = "../text-classifier/encoder.rs"]
mod encoder;
mod model;

use std::f32::consts::{PI, TAU};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_paged::PagedAdamWConfig;
use burn_qlora::{LoraConfig, LoraModel, QuantConfig, attach_adapters, freeze_base, peft};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::model::{CLASSES, SIDE, VisionTransformer};

const WIDTH: usize = 64;
const BLOCKS: usize = 2;
const BATCH: usize = 32;

/// Draws images of stripes, with noise: of any width and place, in one of four directions, which is their class.
struct Camera {
    rng: StdRng,
    /// The classes by which the camera is turned.
    turn: usize,
}

impl Camera {
    fn new(seed: u64, turn: usize) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, turn }
    }

    /// Returns `count` images, `[count, SIDE, SIDE]`, and their classes, `[count]`.
    fn shoot(&mut self, count: usize, device: &Device) -> (Tensor<3>, Tensor<1, Int>) {
        let (mut pixels, mut classes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let class = self.rng.random_range(0..CLASSES);
            let seen = (class + self.turn) as f32 * PI / CLASSES as f32;
            let (waves, phase) = (
                self.rng.random_range(2.0..4.0f32),
                self.rng.random_range(0.0..TAU),
            );
            for pixel in 0..SIDE * SIDE {
                let (row, column) = ((pixel / SIDE) as f32, (pixel % SIDE) as f32);
                let along = (column * seen.cos() + row * seen.sin()) / SIDE as f32;
                let noise = self.rng.random_range(-0.5..0.5f32);
                pixels.push((TAU * waves * along + phase).sin() + noise);
            }
            classes.push(class as i64);
        }
        let pixels = TensorData::new(pixels, [count, SIDE, SIDE]);
        let classes = TensorData::new(classes, [count]);
        (
            Tensor::from_data(pixels, device),
            Tensor::from_data(classes, device),
        )
    }
}

/// Takes `steps` steps on what `camera` sees.
fn fit(
    mut net: VisionTransformer,
    mut optimizer: ModuleOptimizer,
    lr: f64,
    steps: usize,
    camera: &mut Camera,
) -> VisionTransformer {
    let device = Device::flex().autodiff();
    for step in 0..steps {
        let (images, classes) = camera.shoot(BATCH, &device);
        let loss = net.loss(images, classes);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(lr, net, gradients);
        if step % 20 == 0 {
            println!("step {step:>3}: loss {:.4}", loss.into_scalar::<f32>());
        }
    }
    net
}

/// Returns the part of what `camera` sees that is told right.
fn accuracy(net: &VisionTransformer, camera: &mut Camera) -> f64 {
    let (images, classes) = camera.shoot(256, &Device::flex());
    let found = net.valid().forward(images).argmax(1).squeeze_dim::<1>(1);
    let right = found.equal(classes).int().sum().into_scalar::<i64>();
    right as f64 / 256.0
}

/// Trains the model dense, quantizes it, trains adapters, saves them to `dir`, and returns the part of the turned camera's images
/// that is told right before and after.
fn train(dir: &Path) -> Result<(f64, f64)> {
    let device = Device::flex().autodiff();
    device.seed(1);
    let net = VisionTransformer::new(WIDTH, BLOCKS, &device);
    let adamw = AdamWConfig::new().init();
    let mut net = fit(net, adamw, 2e-3, 80, &mut Camera::new(1, 0));

    net.quantize(&QuantConfig::default())?;
    let lora = LoraConfig::new(8, 16.0);
    attach_adapters(&mut net, &lora, 0)?;
    let net = freeze_base(net);
    let before = accuracy(&net, &mut Camera::new(3, 1));
    let paged = PagedAdamWConfig::new().with_weight_decay(0.0).build()?;
    let net = fit(net, paged.into(), 1e-2, 80, &mut Camera::new(2, 1));
    peft::save(&net, &lora, "a-vision-transformer", dir)?;
    Ok((before, accuracy(&net, &mut Camera::new(3, 1))))
}

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map_or_else(
        || std::env::temp_dir().join("vision-transformer"),
        PathBuf::from,
    );
    let (before, after) = train(&dir)?;
    println!(
        "{:.0} % right before, {:.0} % after",
        100.0 * before,
        100.0 * after
    );
    println!("the adapter is in {}", dir.display());
    ensure!(after > 0.9, "the adapters should have learnt the angle");
    Ok(())
}

#[test]
fn the_angle_is_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = train(dir.path()).unwrap();
    assert!(
        before < 0.2 && after > 0.9,
        "{before} before, {after} after"
    );
}
