//! A linear layer on packed NF4 weights beside its dense counterparts, forward and transposed.
//!
//! `nf4` reads the packed words; `dense` multiplies by the f32 weight, which is what the layer would do
//! without quantization; `decode-then-dense` materialises that weight first, as bitsandbytes does in every
//! backward pass. Shapes are the layers of SmolLM2-135M and a square layer of 2048.
//!
//! `cargo bench -p qlora-benches` runs on Flex, `--features wgpu` on wgpu too.

use std::hint::black_box;

use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_nf4::Nf4Tensor;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use nf4::QuantConfig;

/// `[out_features, in_features]`.
const LAYERS: [[usize; 2]; 4] = [[576, 576], [1536, 576], [576, 1536], [2048, 2048]];
const ROWS: [usize; 4] = [1, 8, 128, 1024];

fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "wgpu")]
        (
            "wgpu",
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        ),
    ]
}

fn matmul(criterion: &mut Criterion) {
    for (name, device) in devices() {
        for [n, k] in LAYERS {
            let random = |shape: [usize; 2]| {
                Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), (&device, DType::F32))
            };
            let weight = Nf4Tensor::quantize(random([n, k]), QuantConfig::default())
                .expect("a matrix of normal values can be quantized");
            for m in ROWS {
                let mut group = criterion.benchmark_group(format!("{name}/{n}x{k}/m{m}"));
                group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
                compare(
                    &mut group,
                    "forward",
                    &device,
                    random([m, k]),
                    &weight,
                    false,
                );
                compare(
                    &mut group,
                    "transposed",
                    &device,
                    random([m, n]),
                    &weight,
                    true,
                );
                group.finish();
            }
        }
    }
}

fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    direction: &str,
    device: &Device,
    x: Tensor<2>,
    weight: &Nf4Tensor,
    transposed: bool,
) {
    let oriented = |dense: Tensor<2>| if transposed { dense } else { dense.transpose() };
    let dense = weight.dequantize();
    let mut run = |what: &str, f: &dyn Fn() -> Tensor<2>| {
        group.bench_function(BenchmarkId::new(what, direction), |bencher| {
            bencher.iter(|| {
                let y = black_box(f());
                device.sync().expect("the device should answer");
                y
            });
        });
    };
    run("nf4", &|| {
        if transposed {
            weight.matmul_transposed(x.clone())
        } else {
            weight.matmul(x.clone())
        }
    });
    run("dense", &|| x.clone().matmul(oriented(dense.clone())));
    run("decode-then-dense", &|| {
        x.clone().matmul(oriented(weight.dequantize()))
    });
}

criterion_group!(benches, matmul);
criterion_main!(benches);
