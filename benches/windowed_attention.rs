//! Attention of a layer with a window, forward and backward, in a row of 8192 tokens: what the window hides costs
//! nothing, so the time grows with the window and not with the row.
//!
//! 9 query heads on 3 key-value heads of width 64, in f32. `cargo bench -p qlora-benches --bench windowed_attention` runs on
//! Flex, with `--features wgpu` on wgpu too; `-- flex/512` picks one window on one device.

use std::time::Duration;

use burn::tensor::{Distribution, Tensor};
use burn_fused::{AttentionConfig, causal_attention};
use criterion::{BenchmarkId, Criterion};
use qlora_benches::device::devices;

const TOKENS: usize = 8192;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

/// Windows and softcaps.
const LAYERS: [(&str, Option<usize>, Option<f64>); 4] = [
    ("512", Some(512), None),
    ("1024", Some(1024), None),
    ("1024, softcap", Some(1024), Some(50.0)),
    ("full", None, None),
];

fn windowed_attention(criterion: &mut Criterion) {
    for (name, device) in devices() {
        let device = device.autodiff();
        let mut group = criterion.benchmark_group("windowed_attention");
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let [q, k, v] = [HEADS, KV_HEADS, KV_HEADS].map(|heads| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<4>::random([1, TOKENS, heads, HEAD_DIM], normal, &device)
        });
        for (layer, window, softcap) in LAYERS {
            let config = AttentionConfig::new((HEAD_DIM as f64).powf(-0.5))
                .with_window(window)
                .with_softcap(softcap);
            group.bench_function(BenchmarkId::new(name, layer), |bencher| {
                bencher.iter(|| {
                    let [q, k, v] = [&q, &k, &v].map(|x| x.clone().require_grad());
                    let gradients = causal_attention(q.clone(), k, v, config).backward();
                    let dq = q.grad(&gradients).expect("q is tracked");
                    device.sync().expect("the device computes");
                    dq
                });
            });
        }
        group.finish();
    }
}

fn main() {
    // As in the program: results of megabytes come from memory that was used before.
    finetune::keep_freed_memory();
    let mut criterion = Criterion::default().configure_from_args();
    windowed_attention(&mut criterion);
    criterion.final_summary();
}
