//! Times every fused operation on Flex, forward and backward, at the shapes of SmolLM2-135M with a batch of
//! 4 × 256 tokens: `cargo bench -p qlora-benches --bench fused_throughput`.
//!
//! The least of several runs, and what it makes of memory (GB/s of operands read and results
//! written, once each) or of arithmetic (GFLOP/s of the products; attention's are the causal half).

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use burn_fused::{LogitsConfig, causal_attention, linear_cross_entropy, rms_norm, rope, swiglu};

const BATCH: usize = 4;
const SEQ: usize = 256;
const TOKENS: usize = BATCH * SEQ;
const HIDDEN: usize = 576;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const INTERMEDIATE: usize = 1536;
const LAYERS: usize = 30;
const VOCAB: usize = 49152;

/// Runs of each measurement.
const RUNS: usize = 15;

fn main() {
    let device = Device::flex().autodiff();
    let bytes = |elements: usize| (elements * 4) as f64;

    println!("{:>24} {:>10} {:>10}", "", "forward", "backward");
    let x = random([BATCH, SEQ, HIDDEN], &device);
    let weight = random([HIDDEN], &device);
    let n = TOKENS * HIDDEN;
    let unit = "GB/s";
    let times = time(x, |x| rms_norm(x, weight.clone(), 1e-5));
    report("rms_norm", times, [bytes(2 * n), bytes(3 * n)], unit);

    let gate = random([BATCH, SEQ, INTERMEDIATE], &device);
    let n = TOKENS * INTERMEDIATE;
    let times = time(gate, |x| {
        // Two operands of their own: the backward pass rewrites both.
        let [gate, up] = [x.clone() * 1.0, x * 1.0];
        swiglu(gate, up)
    });
    report(
        "swiglu + 2 products",
        times,
        [bytes(7 * n), bytes(10 * n)],
        unit,
    );

    let angles: Tensor<2> = random([SEQ, HEAD_DIM / 2], &device);
    let (cos, sin) = (angles.clone().cos(), angles.sin());
    let q = random([BATCH, SEQ, HEADS, HEAD_DIM], &device);
    let n = TOKENS * HIDDEN;
    let times = time(q.clone(), |x| rope(x, cos.clone(), sin.clone()));
    report("rope", times, [bytes(2 * n), bytes(2 * n)], unit);

    let k = random([BATCH, SEQ, KV_HEADS, HEAD_DIM], &device).require_grad();
    let v = random([BATCH, SEQ, KV_HEADS, HEAD_DIM], &device).require_grad();
    let scale = 1.0 / (HEAD_DIM as f64).sqrt();
    let times = time(q, |q| causal_attention(q, k.clone(), v.clone(), scale));
    let product = (BATCH * HEADS * SEQ * SEQ * HEAD_DIM) as f64;
    report(
        "causal_attention",
        times,
        [2.0 * product, 5.0 * product],
        "GFLOP/s",
    );
    let layers = (times[0] + times[1]) * LAYERS as f64;
    println!("{:>24} {layers:.3} s", "all layers");

    let hidden = random([TOKENS, HIDDEN], &device);
    let head = random([VOCAB, HIDDEN], &device);
    let classes: Vec<i64> = (0..TOKENS).map(|i| (i * 7919 % VOCAB) as i64).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(classes, [TOKENS]), &device);
    let times = time(hidden.clone(), |x| {
        linear_cross_entropy(x, head.clone(), targets.clone(), LogitsConfig::default())
    });
    let product = 2.0 * (TOKENS * HIDDEN * VOCAB) as f64;
    report(
        "cross entropy, frozen",
        times,
        [2.0 * product, 0.0],
        "GFLOP/s",
    );
    let head = head.require_grad();
    let times = time(hidden, |x| {
        linear_cross_entropy(x, head.clone(), targets.clone(), LogitsConfig::default())
    });
    report(
        "cross entropy, tracked",
        times,
        [4.0 * product, 0.0],
        "GFLOP/s",
    );
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Returns the least seconds of `f` and of its backward pass.
fn time<const D: usize, const E: usize>(
    x: Tensor<D>,
    f: impl Fn(Tensor<D>) -> Tensor<E>,
) -> [f64; 2] {
    let mut least = [f64::MAX; 2];
    for _ in 0..RUNS {
        // A copy of its own, so that what works in place can.
        let x = Tensor::from_data(x.clone().into_data(), &x.device()).require_grad();
        let start = Instant::now();
        let y = f(x);
        least[0] = least[0].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        y.backward();
        least[1] = least[1].min(start.elapsed().as_secs_f64());
    }
    least
}

fn report(name: &str, times: [f64; 2], work: [f64; 2], unit: &str) {
    let cell =
        |time: f64, work: f64| format!("{:.2} ms ({:.0} {unit})", time * 1e3, work / time / 1e9);
    let [forward, backward] = [cell(times[0], work[0]), cell(times[1], work[1])];
    println!("{name:>24} {forward:>24} {backward:>24}");
}
