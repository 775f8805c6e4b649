//! A linear layer on packed NF4 weights beside its dense and its otherwise quantized counterparts, forward and transposed.
//!
//! `nf4` reads the packed words. Beside it, in the same run: `dense` multiplies by the f32 weight with Burn's
//! matmul, which is what the layer would do without quantization; `decode` materialises that weight first, as bitsandbytes does
//! in every backward pass; `q4` is Burn's own matmul with a weight in 4-bit blocks of 32. Shapes are those of the layers of
//! SmolLM2-135M, LLaMA-7B and LLaMA-65B.
//!
//! `cargo bench -p qlora-benches --bench kernels -- --device flex` (`wgpu` and `cpu` with the feature of that name) ends in a
//! table of medians and ratios, and in a chart (`kernels-DEVICE.svg` in the folder `QLORA_CHARTS`, by default
//! `target/charts`). `--models`, `--rows` and `--max-gflop` choose what is run; the last leaves out products that would
//! take a software rasterizer minutes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_nf4::BlockwiseTensor;
use clap::Parser;
use criterion::{BenchmarkId, Criterion, Throughput};
use nf4::QuantConfig;
use qlora_benches::chart::{BarChart, write};
use qlora_benches::charts_dir;
use qlora_benches::device::device;

#[derive(Parser)]
struct Options {
    /// flex, wgpu or cpu (CubeCL's CPU runtime), as far as compiled in.
    #[arg(long, default_value = "flex")]
    device: String,
    /// Whose layers: smollm2, 7b, 65b.
    #[arg(long, value_delimiter = ',', default_value = "smollm2,7b,65b")]
    models: Vec<String>,
    /// Rows of the input.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,32,128,512,2048")]
    rows: Vec<usize>,
    /// The largest product to run.
    #[arg(long, default_value_t = 100.0)]
    max_gflop: f64,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Returns `[out_features, in_features]` of the layers of a model that differ in shape.
fn layers(model: &str) -> Option<&'static [[usize; 2]]> {
    match model {
        "smollm2" => Some(&[[576, 576], [192, 576], [1536, 576], [576, 1536]]),
        "7b" => Some(&[[4096, 4096], [11008, 4096], [4096, 11008]]),
        "65b" => Some(&[[8192, 8192], [22016, 8192], [8192, 22016]]),
        _ => None,
    }
}

/// Kernel, and what it is measured beside.
const VARIANTS: [&str; 4] = ["nf4", "dense", "decode", "q4"];

/// Median seconds of each variant, by layer, rows and direction.
type Medians = BTreeMap<([usize; 2], usize, &'static str), BTreeMap<&'static str, f64>>;

/// The product of a variant.
type Product<'a> = Box<dyn Fn() -> Tensor<2> + 'a>;

struct Bench {
    criterion: Criterion,
    device: Device,
    name: String,
    medians: Medians,
}

impl Bench {
    fn random(&self, shape: [usize; 2]) -> Tensor<2> {
        let distribution = Distribution::Normal(0.0, 1.0);
        Tensor::random(shape, distribution, (&self.device, DType::F32))
    }

    fn layer(&mut self, [n, k]: [usize; 2], rows: &[usize], max_gflop: f64) {
        let weight = self.random([n, k]);
        let packed = BlockwiseTensor::quantize(weight.clone(), QuantConfig::default())
            .expect("a matrix of normal values can be quantized");
        let q4 = q4(&weight);
        for &m in rows {
            if 2e-9 * (m * n * k) as f64 > max_gflop {
                continue;
            }
            for (direction, transposed) in [("forward", false), ("transposed", true)] {
                let x = self.random([m, if transposed { n } else { k }]);
                let oriented = |dense: Tensor<2>| {
                    if transposed { dense } else { dense.transpose() }
                };
                let mut products: Vec<(&str, Product<'_>)> = vec![
                    (
                        "nf4",
                        Box::new(|| {
                            if transposed {
                                packed.matmul_transposed(x.clone())
                            } else {
                                packed.matmul(x.clone())
                            }
                        }),
                    ),
                    (
                        "dense",
                        Box::new(|| x.clone().matmul(oriented(weight.clone()))),
                    ),
                    (
                        "decode",
                        Box::new(|| x.clone().matmul(oriented(packed.dequantize()))),
                    ),
                ];
                if let Some(q4) = &q4 {
                    products.push(("q4", Box::new(|| x.clone().matmul(oriented(q4.clone())))));
                }
                for (variant, product) in products {
                    let median = self.measure(variant, ([n, k], m, direction), &*product);
                    self.medians
                        .entry(([n, k], m, direction))
                        .or_default()
                        .insert(variant, median);
                }
            }
        }
    }

    fn measure(
        &mut self,
        variant: &str,
        ([n, k], m, direction): ([usize; 2], usize, &str),
        product: &dyn Fn() -> Tensor<2>,
    ) -> f64 {
        let device = &self.device;
        let mut seconds = Vec::new();
        let mut group = self
            .criterion
            .benchmark_group(format!("{}/{n}x{k}/m{m}", self.name));
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(BenchmarkId::new(variant, direction), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    let y = black_box(product());
                    device.sync().expect("the device should answer");
                    let taken = start.elapsed();
                    drop(y);
                    seconds.push(taken.as_secs_f64());
                    total += taken;
                }
                total
            });
        });
        group.finish();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }

    /// Prints the ratios of `variant`'s median to `nf4`'s: above 1, the packed weight is faster.
    fn table(&self) {
        println!("\n{}: times faster than", self.name);
        println!("| layer | rows | direction | nf4, ms | dense | decode-then-dense | q4 |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for (([n, k], m, direction), medians) in &self.medians {
            let nf4 = medians["nf4"];
            print!("| {n} × {k} | {m} | {direction} | {:.3} |", nf4 * 1e3);
            for variant in &VARIANTS[1..] {
                match medians.get(variant) {
                    Some(seconds) => print!(" {:.2} |", seconds / nf4),
                    None => print!(" – |"),
                }
            }
            println!();
        }
    }

    fn chart(&self) -> std::io::Result<()> {
        let groups = self
            .medians
            .iter()
            .map(|(([n, k], m, direction), medians)| {
                let ratio = |variant| medians.get(variant).map_or(0.0, |s| s / medians["nf4"]);
                let label = format!("{n} × {k}, {m} rows, {direction}");
                (label, VARIANTS[1..].iter().map(ratio).collect())
            });
        let chart = BarChart {
            title: format!("Products with packed NF4 weights on {}", self.name),
            axis: "times faster than".into(),
            mark: Some(1.0),
            series: ["dense", "decode-then-dense", "Burn's Q4"]
                .map(String::from)
                .into(),
            groups: groups.collect(),
        };
        write(
            &charts_dir().join(format!("kernels-{}.svg", self.name)),
            &chart.svg(),
        )
    }
}

/// Returns the weight in Burn's own 4-bit blocks, where the shape and the device allow them.
fn q4(weight: &Tensor<2>) -> Option<Tensor<2>> {
    let [_, k] = weight.dims();
    if !k.is_multiple_of(32) {
        return None;
    }
    let scheme = QuantScheme::default()
        .with_value(QuantValue::Q4S)
        .with_store(QuantStore::PackedU32(0))
        .per_block([32], ScaleDtype::F32);
    Some(weight.clone().quantize_dynamic(&scheme))
}

fn main() {
    let options = Options::parse();
    let device = device(&options.device).unwrap_or_else(|error| panic!("{error}"));
    let mut bench = Bench {
        criterion: Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_secs_f64(options.seconds / 5.0))
            .measurement_time(Duration::from_secs_f64(options.seconds)),
        device,
        name: options.device.clone(),
        medians: Medians::new(),
    };
    for model in &options.models {
        let Some(layers) = layers(model) else {
            panic!("{model} is none of smollm2, 7b, 65b");
        };
        for layer in layers {
            bench.layer(*layer, &options.rows, options.max_gflop);
        }
    }
    bench.table();
    bench.chart().expect("the chart should be written");
}
