//! Times of one NF4 linear layer on Flex, in ms, as one JSON object a shape: `cargo run --release -p qlora-benches --example
//! linear -- M,K,N …`. `benches/peers/compare_linear.py` puts them beside those of bitsandbytes.
//!
//! Medians of 15 runs. Forward + backward are both products, `x·Wᵀ` and `dy·W`: the weight is frozen.

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_nf4::{Nf4Tensor, QuantConfig};

const RUNS: usize = 15;

fn main() {
    for shape in std::env::args().skip(1) {
        let sizes: Vec<usize> = shape
            .split(',')
            .map(|size| size.parse().expect("a shape is M,K,N"))
            .collect();
        let [m, k, n] = sizes[..] else {
            panic!("a shape is M,K,N, not {shape}")
        };
        let device = Device::flex();
        let dense = Tensor::<2>::random([n, k], Distribution::Normal(0.0, 0.02), &device);
        let quantize = || {
            Nf4Tensor::quantize(dense.clone(), QuantConfig::default())
                .expect("the values are finite")
        };
        let mut figures = vec![
            (
                "quantize".to_string(),
                median(|| drop(black_box(quantize()))),
            ),
            ("dequantize".to_string(), {
                let weight = quantize();
                median(|| drop(black_box(weight.dequantize())))
            }),
        ];
        for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
            let random = |shape: [usize; 2]| {
                Tensor::<2>::random(shape, Distribution::Default, &device).cast(dtype)
            };
            let x = random([m, k]);
            let weight = quantize();
            let forward = median(|| drop(black_box(weight.matmul(x.clone()))));
            figures.push((format!("forward_{name}"), forward));

            let dy = random([m, n]);
            let both = median(|| {
                drop(black_box(weight.matmul(x.clone())));
                drop(black_box(weight.matmul_transposed(dy.clone())));
            });
            figures.push((format!("forward_backward_{name}"), both));
        }
        let figures: Vec<_> = figures
            .iter()
            .map(|(name, ms)| format!("\"{name}\": {ms:.4}"))
            .collect();
        println!(
            "{{\"m\": {m}, \"k\": {k}, \"n\": {n}, {}}}",
            figures.join(", ")
        );
    }
}

/// The median time of a run, in ms.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    run();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}
