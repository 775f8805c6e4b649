//! One optimizer step over the LoRA state of whole models, at budgets from all of the state to none of it, beside
//! burn-optim's AdamW.
//!
//! Adapters of rank 64 on all linear layers: SmolLM2-135M (20 M parameters, 156 MB of state), LLaMA-7B (160 M,
//! 1.28 GB) and LLaMA-65B (800 M, 6.4 GB). The states are real; parameters and gradients are one tensor for each
//! shape, since their memory is not what is measured. Bytes moved are printed beside the times, with what LRU paging
//! would move.
//!
//! `cargo bench -p qlora-benches --bench paging` runs on Flex, with `--features wgpu` on wgpu too, with `--features cpu`
//! on CubeCL's CPU runtime. Budgets above none are left out for a model whose state does not fit into what memory is
//! free beside a gigabyte for everything else; `-- flex/7b` picks one model on one device.

use std::time::{Duration, Instant};

use burn::optim::{AdamWConfig, Optimizer};
use burn::tensor::{Device, Distribution, Tensor};
use burn_paged::{Budget, PAGE_BYTES, PagedAdamWConfig, PagingReport};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qlora_benches::device::devices;
use qlora_benches::lru::lru_bytes;

const RANK: usize = 64;

/// Hidden, key and value, and intermediate sizes, and layers.
const MODELS: [(&str, [usize; 3], usize); 3] = [
    ("smollm2", [576, 192, 1536], 30),
    ("7b", [4096, 4096, 11008], 32),
    ("65b", [8192, 8192, 22016], 80),
];

/// Returns the shapes of all factors of the adapters, in the order of the layers.
fn shapes([hidden, kv, inner]: [usize; 3], layers: usize) -> Vec<[usize; 2]> {
    let linears = [
        (hidden, hidden),
        (hidden, kv),
        (hidden, kv),
        (hidden, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ];
    let layer = linears
        .iter()
        .flat_map(|(from, to)| [[*from, RANK], [RANK, *to]]);
    (0..layers).flat_map(|_| layer.clone()).collect()
}

/// Returns the bytes of memory available, where the system tells.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The parameters of a model, of which those of one shape are one tensor, as gradients are.
struct Adapters {
    shapes: Vec<[usize; 2]>,
    values: std::collections::BTreeMap<[usize; 2], (Tensor<2>, Tensor<2>)>,
    device: Device,
}

impl Adapters {
    fn new(shapes: Vec<[usize; 2]>, device: &Device) -> Self {
        let random = |shape| Tensor::<2>::random(shape, Distribution::Default, device);
        let values = shapes
            .iter()
            .map(|shape| (*shape, (random(*shape), random(*shape))))
            .collect();
        Self {
            shapes,
            values,
            device: device.clone(),
        }
    }

    fn step<O: Optimizer>(&self, optimizer: &O, states: &mut [Option<O::State<2>>]) {
        for (shape, state) in self.shapes.iter().zip(states) {
            let (param, grad) = &self.values[shape];
            let (_, new) = optimizer.step(1e-4, param.clone(), grad.clone(), state.take());
            *state = new;
        }
    }

    fn sync(&self) {
        self.device.sync().expect("the device works");
    }
}

fn paging(criterion: &mut Criterion) {
    for (device_name, device) in devices() {
        for (model, sizes, layers) in MODELS {
            let shapes = shapes(sizes, layers);
            let elements: usize = shapes.iter().map(|[rows, columns]| rows * columns).sum();
            let adapters = Adapters::new(shapes, &device);
            let mut group = criterion.benchmark_group(format!("{device_name}/{model}"));
            group
                .sample_size(10)
                .measurement_time(Duration::from_secs(5))
                .warm_up_time(Duration::from_millis(500))
                .throughput(Throughput::Elements(elements as u64));
            // Resident states are given up before the next are made, but burn-optim needs room for the
            // intermediate tensors of a factor too.
            let fits = available().is_none_or(|bytes| 8 * elements + (1 << 30) < bytes);

            if fits {
                let mut states: Vec<_> = adapters.shapes.iter().map(|_| None).collect();
                let burns = AdamWConfig::new().build();
                group.bench_function("burn-optim", |bencher| {
                    bencher.iter_custom(|steps| {
                        let start = Instant::now();
                        for _ in 0..steps {
                            adapters.step(&burns, &mut states);
                        }
                        adapters.sync();
                        start.elapsed()
                    });
                });
            }
            for share in [1.0, 0.5, 0.1, 0.0] {
                if share > 0.0 && !fits {
                    continue;
                }
                let name = format!("{}%", share * 100.0);
                let mut moved = None;
                let mut run = None;
                group.bench_function(BenchmarkId::new("paged", &name), |bencher| {
                    bencher.iter_custom(|steps| {
                        let (optimizer, states, _) = run.get_or_insert_with(|| {
                            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                                .expect("the target folder can be written");
                            let optimizer = PagedAdamWConfig::new()
                                .with_budget(Budget::Fraction(share))
                                .with_page_file(Some(dir.path().join("pages")))
                                .build()
                                .expect("the settings work");
                            let mut states: Vec<_> = adapters.shapes.iter().map(|_| None).collect();
                            // The first step makes the pages.
                            adapters.step(&optimizer, &mut states);
                            optimizer.end_step().expect("there is room for the pages");
                            (optimizer, states, dir)
                        });
                        let start = Instant::now();
                        for _ in 0..steps {
                            adapters.step(&*optimizer, states);
                            optimizer.end_step().expect("the pages can be moved");
                        }
                        adapters.sync();
                        moved = Some(optimizer.report());
                        start.elapsed()
                    });
                });
                if let Some(report) = moved {
                    tell(device_name, model, &name, &report);
                }
            }
            group.finish();
        }
    }
}

/// Returns what LRU paging moves in a step with as much memory, the two buffers included. A step visits the pages in
/// order, and f32 state fills all of them but the last; after two steps it is in its round.
fn lru(report: &PagingReport) -> u64 {
    let page = PAGE_BYTES as u64;
    let pages: Vec<u64> = (0..report.state_bytes.div_ceil(page))
        .map(|i| page.min(report.state_bytes - i * page))
        .collect();
    lru_bytes(&pages, report.resident_bytes + 2 * page, 3)
}

fn tell(device: &str, model: &str, budget: &str, report: &PagingReport) {
    assert_eq!(
        report.bytes_moved(),
        2 * (report.state_bytes - report.resident_bytes)
    );
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{device}/{model} {budget}: state {:.1} MB, resident {:.1} MB, moved {:.1} MB a step (LRU {:.1} MB)",
        mb(report.state_bytes),
        mb(report.resident_bytes),
        mb(report.bytes_moved()),
        mb(lru(report)),
    );
}

criterion_group!(benches, paging);
criterion_main!(benches);
