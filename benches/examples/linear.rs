//! Times of one NF4 linear layer, in ms, as one JSON object a shape: `cargo run --release -p qlora-benches --example linear
//! -- M,K,N …`. `benches/peers/compare_linear.py` puts them beside those of bitsandbytes, and runs
//! this binary from where cargo puts an example.
//!
//! Medians of 15 runs. Quantizing is the backend's operation, as bitsandbytes' checks nothing either; checked, it is what
//! [`BlockwiseTensor::quantize`] does, which refuses values that are not finite. Forward + backward are both products, `x·Wᵀ` and
//! `dy·W`: the weight is frozen. Types that the device does not compute with are left out.

use std::hint::black_box;
use std::time::Instant;

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_nf4::{BlockwiseOps, BlockwiseTensor, QuantConfig};
use clap::Parser;
use qlora_benches::device::device;

const RUNS: usize = 15;

#[derive(Parser)]
struct Options {
    /// Rows, in and out features.
    #[arg(value_name = "M,K,N", required = true)]
    shapes: Vec<Shape>,
    /// flex, wgpu or cpu (CubeCL's CPU runtime), as far as compiled in.
    #[arg(long, default_value = "flex", value_parser = device)]
    device: Device,
}

/// Rows, in and out features.
#[derive(Clone, Copy)]
struct Shape([usize; 3]);

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
        sizes
            .ok()
            .and_then(|sizes| sizes.try_into().ok())
            .map(Shape)
            .ok_or_else(|| format!("a shape is M,K,N, not {text}"))
    }
}

fn main() {
    let Options { shapes, device } = Options::parse();
    for Shape([m, k, n]) in shapes {
        let figures: Vec<_> = measure([m, k, n], &device)
            .iter()
            .map(|(name, ms)| format!("\"{name}\": {ms:.4}"))
            .collect();
        println!(
            "{{\"m\": {m}, \"k\": {k}, \"n\": {n}, {}}}",
            figures.join(", ")
        );
    }
}

/// Returns the name of a measurement, and its median time in ms.
fn measure([m, k, n]: [usize; 3], device: &Device) -> Vec<(String, f64)> {
    let dense = Tensor::<2>::random([n, k], Distribution::Normal(0.0, 0.02), device);
    let quantize = || {
        BlockwiseTensor::quantize(dense.clone(), QuantConfig::default())
            .expect("the values are finite")
    };
    let weight = quantize();
    let unchecked = || {
        let dense = dense.clone().into_dispatch();
        Dispatch::blockwise_quantize(dense, QuantConfig::default())
    };
    let mut figures = vec![
        (
            "quantize".to_string(),
            median(device, || drop(black_box(unchecked()))),
        ),
        (
            "quantize_checked".to_string(),
            median(device, || drop(black_box(quantize()))),
        ),
        (
            "dequantize".to_string(),
            median(device, || drop(black_box(weight.dequantize()))),
        ),
    ];
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        if !device.supports_dtype(dtype) {
            continue;
        }
        let random = |shape: [usize; 2]| {
            Tensor::<2>::random(shape, Distribution::Default, device).cast(dtype)
        };
        let x = random([m, k]);
        let forward = median(device, || drop(black_box(weight.matmul(x.clone()))));
        figures.push((format!("forward_{name}"), forward));

        let dy = random([m, n]);
        let both = median(device, || {
            drop(black_box(weight.matmul(x.clone())));
            drop(black_box(weight.matmul_transposed(dy.clone())));
        });
        figures.push((format!("forward_backward_{name}"), both));
    }
    figures
}

/// Returns the median time of a run, in ms.
fn median(device: &Device, mut run: impl FnMut()) -> f64 {
    let mut timed = || {
        let start = Instant::now();
        run();
        device.sync().expect("the device should answer");
        start.elapsed().as_secs_f64() * 1e3
    };
    timed();
    timed();
    let mut times: Vec<f64> = (0..RUNS).map(|_| timed()).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}
