//! The workspace that products report against what an allocator that counts sees them take.

use std::time::{Duration, Instant};

use half::bf16;
use nf4::{Direction, QuantConfig};
use qlora_cpu::dense::{Beta, DenseRef};
use qlora_cpu::low_rank::LowRank;
use qlora_cpu::{Cpu, Element, Isa, QuantizedProducts, Threads};
use qlora_test_support::CountingAllocator;

/// Bytes that do not matter here.
const SMALL: usize = 96 * 1024;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Returns the most bytes that `run` holds at once on threads that have run nothing yet, beside what it returns.
fn held<R: Send>(threads: usize, run: impl Fn() -> R + Sync + Send, result: usize) -> usize {
    let without = CountingAllocator::held();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let held = pool.install(|| CountingAllocator::peak_during(|| drop(run())) - result);
    drop(pool);
    // The threads end, and give their buffers back, when they get to it.
    let start = Instant::now();
    while CountingAllocator::held() > without + SMALL && start.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    held
}

/// The report may be above what is held by the blocks of a thread, of 256 KiB and less: where it finds no task left, or
/// takes those of the projection over for the product. What it leaves out are the queues of threads and the scales of a
/// few blocks.
fn assert_reported(held: usize, reported: usize, threads: usize, what: &str) {
    const BLOCKS: usize = 4 * 256 * 1024;
    assert!(
        held <= reported + SMALL,
        "{what}: {held} held, {reported} reported"
    );
    let idle = threads * BLOCKS;
    assert!(
        reported <= held + idle,
        "{what}: {held} held, {reported} reported"
    );
}

fn products<E: Element>(name: &str, products: QuantizedProducts) {
    let rank = 16;
    for (m, shape, threads) in [
        (1, [512, 2048], 2),
        (5, [512, 2048], 2),
        (300, [512, 768], 1),
        (300, [512, 768], 3),
        (1500, [320, 1000], 2),
    ] {
        let [n, k] = shape;
        let values: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let w = qlora_cpu::quantize(&values, shape, QuantConfig::default()).unwrap();
        let dense: Vec<E> = values.iter().map(|v| E::from_f32(*v)).collect();
        let x = vec![E::from_f32(0.5); m * k];
        let dy = vec![E::from_f32(0.5); m * n];
        let (a, b) = (vec![0.1; k * rank], vec![0.1; rank * n]);
        let factors = LowRank::new(&a, &b, rank, 0.5);
        for isa in Isa::available() {
            let cpu = Cpu::new(*isa, Threads::All).with_products(products);
            let of_pool = |report: &(dyn Fn() -> usize + Sync)| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.unwrap().install(report)
            };
            let what = format!("{isa:?} {name} m={m} n={n} k={k} on {threads}");
            let bytes = size_of::<E>();
            for (direction, x, len) in [
                (Direction::Forward, &x, m * n),
                (Direction::Transposed, &dy, m * k),
            ] {
                let run = || cpu.matmul_vec(w.as_ref(), x, m, direction);
                assert_reported(
                    held(threads, run, len * bytes),
                    of_pool(&|| cpu.matmul_workspace::<E>(m, shape, direction)),
                    threads,
                    &format!("{what} {direction:?}"),
                );
            }
            let run = || cpu.low_rank_forward(w.as_ref(), factors, &x, m);
            assert_reported(
                held(threads, run, m * n * bytes),
                of_pool(&|| cpu.low_rank_forward_workspace::<E>(m, shape, rank)),
                threads,
                &format!("{what} low-rank forward"),
            );
            let run = || cpu.low_rank_backward(w.as_ref(), factors, &x, &dy, m, true);
            assert_reported(
                held(threads, run, m * k * bytes + (n + k) * rank * 4),
                of_pool(&|| cpu.low_rank_backward_workspace::<E>(m, shape, rank)),
                threads,
                &format!("{what} low-rank backward"),
            );
            if m > 5 {
                let w = DenseRef::new(&dense, shape);
                let run = || {
                    let mut y = vec![0.0f32; m * n];
                    cpu.dense_matmul(w, &x, m, &mut y, Direction::Forward, Beta::Zero);
                    y
                };
                assert_reported(
                    held(threads, run, m * n * 4),
                    of_pool(&|| cpu.dense_workspace::<E>([m, n, k])),
                    threads,
                    &format!("{what} dense"),
                );
            }
        }
    }
}

/// One test, because the counters are the process's.
#[test]
fn products_hold_what_they_report() {
    products::<f32>("f32", QuantizedProducts::Float);
    products::<bf16>("bf16", QuantizedProducts::Float);
    products::<bf16>("int8", QuantizedProducts::Int8);
}
