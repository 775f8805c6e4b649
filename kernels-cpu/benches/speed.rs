//! Prints the speed of the CPU's kernels for the shapes of usual models:
//! `cargo bench -p qlora-cpu --bench speed`. Beside the kernels, so that it builds without Burn.
//!
//! Times are the least of many runs, so that a busy machine does not show; GFLOP/s count `2·m·k·n`.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use half::bf16;
use nf4::{Direction, QuantConfig, QuantizedMatrix};
use qlora_cpu::dense::{Beta, DenseRef, FEW_ROWS};
use qlora_cpu::low_rank::LowRank;
use qlora_cpu::{Cpu, Element, Isa, QuantizedProducts, Shortlist, Threads};

fn main() {
    let seconds: f64 = std::env::args()
        .nth(1)
        .and_then(|arg| arg.parse().ok())
        .unwrap_or(0.5);
    let budget = Duration::from_secs_f64(seconds);
    for isa in Isa::available() {
        let cpu = Cpu::new(*isa, Threads::All);
        println!("{isa:?}, {} threads", rayon::current_num_threads());
        format(cpu, 2048, 2048, budget);
        for [m, k, n] in [
            [1, 2048, 2048],
            [2, 2048, 2048],
            [4, 2048, 2048],
            [8, 2048, 2048],
            [16, 2048, 2048],
            [1, 576, 1536],
            [512, 2048, 2048],
            [1024, 576, 192],
            [1024, 576, 576],
            [1024, 576, 1536],
            [1024, 1536, 576],
            [1024, 576, 16],
            [16, 1024, 576],
            [1024, 16, 576],
        ] {
            product(cpu, m, k, n, budget);
        }
        for m in 1..=FEW_ROWS {
            written_token(cpu, m, budget);
        }
        for [m, k, n] in [
            [1024, 576, 192],
            [1024, 576, 576],
            [1024, 576, 1536],
            [1024, 1536, 576],
        ] {
            lora::<f32>(cpu, "f32", m, k, n, budget);
            lora::<bf16>(cpu, "bf16", m, k, n, budget);
            let cpu = cpu.with_products(QuantizedProducts::Int8);
            lora::<bf16>(cpu, "int8", m, k, n, budget);
        }
    }
}

fn least(budget: Duration, mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut least = f64::INFINITY;
    while start.elapsed() < budget {
        let run_start = Instant::now();
        run();
        least = least.min(run_start.elapsed().as_secs_f64());
    }
    least
}

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 % 10007) as f32 - 5000.0) * 1e-4)
        .collect()
}

fn format(cpu: Cpu, n: usize, k: usize, budget: Duration) {
    let weights = values(n * k);
    let config = QuantConfig::default();
    let quantize = least(budget, || {
        drop(black_box(cpu.quantize(&weights, [n, k], config)))
    });
    let w = cpu
        .quantize(&weights, [n, k], config)
        .expect("the values are finite");
    let mut out = vec![0.0; n * k];
    let dequantize = least(budget, || cpu.dequantize(w.as_ref(), black_box(&mut out)));
    println!(
        "  {n} x {k}: quantize {:.2} ms, dequantize {:.2} ms",
        quantize * 1e3,
        dequantize * 1e3
    );
}

fn product(cpu: Cpu, m: usize, k: usize, n: usize, budget: Duration) {
    let weights = values(n * k);
    let w = cpu
        .quantize(&weights, [n, k], QuantConfig::default())
        .expect("the values are finite");
    let report = |seconds: f64| {
        format!(
            "{:8.3} ms {:6.1} GFLOP/s",
            seconds * 1e3,
            2.0 * (m * k * n) as f64 / seconds * 1e-9
        )
    };
    let (x, mut y) = (values(m * k), vec![0.0; m * n]);
    let [forward, transposed] = both_directions::<f32>(cpu, &w, &x, m, budget);
    let dense = least(budget, || dense(&x, &weights, &mut y, [m, k, n]));
    println!(
        "  m={m:<4} k={k:<4} n={n:<4}  f32  x·Wᵀ {}  x·W {}  dense gemm {}",
        report(forward),
        report(transposed),
        report(dense)
    );
    let x: Vec<bf16> = x.into_iter().map(bf16::from_f32).collect();
    let int8 = cpu.with_products(QuantizedProducts::Int8);
    let in_int8 = both_directions(int8, &w, &x, m, budget);
    let [forward, transposed] = both_directions(cpu, &w, &x, m, budget);
    let weights: Vec<bf16> = weights.into_iter().map(bf16::from_f32).collect();
    let mut y = vec![bf16::ZERO; m * n];
    let dense = least(budget, || {
        cpu.dense_matmul(
            DenseRef::new(&weights, [n, k]),
            &x,
            m,
            black_box(&mut y),
            Direction::Forward,
            Beta::Zero,
        );
    });
    println!(
        "  {:22}  bf16 x·Wᵀ {}  x·W {}  dense      {}",
        "",
        report(forward),
        report(transposed),
        report(dense)
    );
    let [forward, transposed] = in_int8.map(report);
    println!("  {:22}  int8 x·Wᵀ {forward}  x·W {transposed}", "");
}

/// The products of a step of SmolLM2-135M that writes `m` tokens, each with weights of its own: so they come from memory.
fn written_token(cpu: Cpu, m: usize, budget: Duration) {
    const LAYERS: usize = 30;
    const SHAPES: [[usize; 2]; 7] = [
        [576, 576],
        [192, 576],
        [192, 576],
        [576, 576],
        [1536, 576],
        [1536, 576],
        [576, 1536],
    ];
    const HEAD: [usize; 2] = [49152, 576];
    let layers: Vec<QuantizedMatrix> = (0..LAYERS)
        .flat_map(|_| SHAPES)
        .map(|shape @ [n, k]| cpu.quantize(&values(n * k), shape, QuantConfig::default()))
        .map(|w| w.expect("the values are finite"))
        .collect();
    let bytes = |w: &QuantizedMatrix| 4 * (w.packed().len() + w.absmax().len());
    let report = |what: &str, bytes: usize, seconds: f64| {
        println!(
            "  {m} written, {what}: {:6.2} ms, {:5.1} GB/s",
            seconds * 1e3,
            bytes as f64 / seconds * 1e-9
        );
    };
    let x = values(m * 1536);
    qlora_cpu::on_worker(|| {
        let seconds = least(budget, || {
            for w in &layers {
                let [_, k] = w.layout().shape();
                let y = cpu.matmul_vec(w.as_ref(), &x[..m * k], m, Direction::Forward);
                drop(black_box(y));
            }
        });
        report("NF4 layers", layers.iter().map(bytes).sum(), seconds);
        let weights = values(HEAD[0] * HEAD[1]);
        let x = &x[..m * HEAD[1]];
        let mut y = vec![0.0; m * HEAD[0]];
        let seconds = least(budget, || {
            cpu.dense_matmul_few_rows(DenseRef::new(&weights, HEAD), x, m, black_box(&mut y));
        });
        report("f32 head  ", 4 * weights.len(), seconds);
        let read = |first: usize| -> Result<Vec<f32>, Infallible> {
            Ok(weights[first * HEAD[1]..][..HEAD[1]].to_vec())
        };
        let Ok(list) = Shortlist::new(cpu, HEAD, read);
        let list = list.expect("the values are finite");
        let seconds = least(budget, || {
            let estimates = list.estimates(cpu, x, m).expect("the products are finite");
            for i in 0..m {
                drop(black_box(estimates.candidates(i, f32::NEG_INFINITY, 1e-6)));
            }
        });
        report("shortlist ", Shortlist::bytes(HEAD) as usize, seconds);
        let narrow = |values: &[f32]| values.iter().copied().map(bf16::from_f32).collect();
        let (weights, x): (Vec<bf16>, Vec<bf16>) = (narrow(&weights), narrow(x));
        let mut y = vec![bf16::ZERO; m * HEAD[0]];
        let seconds = least(budget, || {
            cpu.dense_matmul_few_rows(DenseRef::new(&weights, HEAD), &x, m, black_box(&mut y));
        });
        report("bf16 head ", 2 * weights.len(), seconds);
    });
}

/// A LoRA layer of rank 16 as one; its backward pass has three products beside the one that GFLOP/s count.
fn lora<E: Element>(cpu: Cpu, name: &str, m: usize, k: usize, n: usize, budget: Duration) {
    let rank = 16;
    let w = cpu
        .quantize(&values(n * k), [n, k], QuantConfig::default())
        .expect("the values are finite");
    let (a, b) = (values(k * rank), values(rank * n));
    let factors = LowRank::new(&a, &b, rank, 2.0);
    let of_type = |len| -> Vec<E> { values(len).into_iter().map(E::from_f32).collect() };
    let (x, dy) = (of_type(m * k), of_type(m * n));
    let forward = least(budget, || {
        drop(black_box(cpu.low_rank_forward(w.as_ref(), factors, &x, m)));
    });
    let backward = least(budget, || {
        drop(black_box(cpu.low_rank_backward(
            w.as_ref(),
            factors,
            &x,
            &dy,
            m,
            true,
        )));
    });
    let rate = |seconds: f64| 2.0 * (m * k * n) as f64 / seconds * 1e-9;
    println!(
        "  LoRA m={m} k={k:<4} n={n:<4} {name:4}  forward {:8.3} ms {:6.1} GFLOP/s  backward {:8.3} ms {:6.1} GFLOP/s",
        forward * 1e3,
        rate(forward),
        backward * 1e3,
        rate(backward)
    );
}

fn both_directions<E: Element>(
    cpu: Cpu,
    w: &QuantizedMatrix,
    x: &[E],
    m: usize,
    budget: Duration,
) -> [f64; 2] {
    let [n, k] = w.layout().shape();
    let mut y = vec![E::default(); m * n];
    let mut dx = vec![E::default(); m * k];
    let forward = least(budget, || {
        cpu.matmul(w.as_ref(), x, m, black_box(&mut y), Direction::Forward);
    });
    let transposed = least(budget, || {
        cpu.matmul(w.as_ref(), &y, m, black_box(&mut dx), Direction::Transposed);
    });
    [forward, transposed]
}

/// The same product with a dense `W`, by the `gemm` crate on all threads.
fn dense(x: &[f32], w: &[f32], y: &mut [f32], [m, k, n]: [usize; 3]) {
    assert!(x.len() == m * k && w.len() == n * k && y.len() == m * n);
    // SAFETY: the pointers are of matrices of the sizes given, with these strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
