//! Each fused operation, forward and backward, beside the same composed of Burn's operations and differentiated
//! by Burn, in f32 and in bf16.
//!
//! Shapes are those of SmolLM2-135M in batches of 4 × 256 and 1 × 1024 tokens, and of a layer as wide as LLaMA-7B's.
//! Half-precision operands are composed as Hugging Face's LLaMA has them: norms, softmax and the loss in f32.
//!
//! `cargo bench -p qlora-benches --bench fused` ends in a table and a chart (`fused.svg` in the folder `QLORA_CHARTS`, by
//! default `target/charts`) of the medians; a filter, as in `-- attention`, leaves the others out of both. Flex only.

use std::time::{Duration, Instant};

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use burn_fused::{
    AttentionConfig, LogitsConfig, RmsNormConfig, add_rms_norm, causal_attention,
    linear_cross_entropy, lora_linear_cross_entropy, packed_causal_attention, rms_norm, rope,
    swiglu,
};
use criterion::{BenchmarkId, Criterion};
use qlora_benches::chart::{BarChart, write};
use qlora_benches::charts_dir;

const DTYPES: [(&str, DType); 2] = [("f32", DType::F32), ("bf16", DType::BF16)];
const EPS: f64 = 1e-5;

/// One pass forward and backward.
type Pass = Box<dyn Fn()>;

/// An operation at a shape, in two forms.
struct Case {
    name: &'static str,
    shape: String,
    composed: Pass,
    fused: Pass,
}

/// Heads, key-value heads and the width of a head.
type Heads = [usize; 3];
const SMOL: Heads = [9, 3, 64];
const WIDE: Heads = [32, 32, 128];

fn cases(device: &Device, dtype: DType) -> Vec<Case> {
    let inputs = Inputs { device, dtype };
    let mut cases = Vec::new();
    for [tokens, n] in [[1024, 576], [512, 4096]] {
        cases.push(inputs.norm(tokens, n));
        cases.push(inputs.add_norm(tokens, n));
    }
    for [tokens, n] in [[1024, 1536], [512, 11008]] {
        cases.push(inputs.swiglu(tokens, n));
    }
    let rows = [([4, 256], SMOL), ([1, 1024], SMOL), ([1, 512], WIDE)];
    for (rows, heads) in rows {
        cases.push(inputs.rope(rows, heads));
    }
    for (rows, heads) in rows {
        cases.push(inputs.attention(rows, heads));
    }
    cases.push(inputs.packed_attention([1, 1024], SMOL, 128));
    for shape in [[1024, 576, 49152], [512, 4096, 32000]] {
        cases.push(inputs.cross_entropy(shape));
        cases.push(inputs.lora_cross_entropy(shape, 16));
    }
    cases
}

struct Inputs<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Inputs<'_> {
    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<D>::random(shape, normal, (self.device, DType::F32)).cast(self.dtype)
    }

    fn norm(&self, tokens: usize, n: usize) -> Case {
        let x = self.random([tokens, n]);
        let weight = self.random([n]);
        Case::new("rms_norm", format!("{tokens} × {n}"), move |form| {
            let x = x.clone().require_grad();
            let y = match form {
                Form::Composed => composed_norm(x, weight.clone()),
                Form::Fused => rms_norm(x, weight.clone(), RmsNormConfig::new(EPS)),
            };
            y.backward();
        })
    }

    /// Four in a row, so that all but the last are given both gradients.
    fn add_norm(&self, tokens: usize, n: usize) -> Case {
        let [x, residual] = [0, 1].map(|_| self.random([tokens, n]));
        let weight = self.random([n]);
        Case::new("4 add_rms_norm", format!("{tokens} × {n}"), move |form| {
            let mut stream = residual.clone().require_grad();
            let mut branch = x.clone().require_grad();
            for _ in 0..4 {
                (stream, branch) = match form {
                    Form::Composed => {
                        let sum = stream + branch;
                        (sum.clone(), composed_norm(sum, weight.clone()))
                    }
                    Form::Fused => {
                        add_rms_norm(branch, stream, weight.clone(), RmsNormConfig::new(EPS))
                    }
                };
            }
            branch.backward();
        })
    }

    fn swiglu(&self, tokens: usize, n: usize) -> Case {
        let [gate, up] = [0, 1].map(|_| self.random([tokens, n]));
        Case::new("swiglu", format!("{tokens} × {n}"), move |form| {
            let [gate, up] = [&gate, &up].map(|x| x.clone().require_grad());
            let y = match form {
                Form::Composed => silu(gate) * up,
                Form::Fused => swiglu(gate, up),
            };
            y.backward();
        })
    }

    fn rope(&self, [batch, seq]: [usize; 2], [heads, _, d]: Heads) -> Case {
        let x = self.random([batch, seq, heads, d]);
        let angles = self.random([seq, d / 2]).cast(DType::F32);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let dtype = self.dtype;
        let shape = format!("{batch} × {seq} × {heads} × {d}");
        Case::new("rope", shape, move |form| {
            let x = x.clone().require_grad();
            let (cos, sin) = (cos.clone(), sin.clone());
            let y = match form {
                Form::Composed => composed_rope(x, cos.cast(dtype), sin.cast(dtype)),
                Form::Fused => rope(x, cos, sin),
            };
            y.backward();
        })
    }

    fn attention(&self, [batch, seq]: [usize; 2], heads: Heads) -> Case {
        let [q, k, v] = self.heads([batch, seq], heads);
        let hidden = Tensor::<2>::ones([seq, seq], self.device).triu(1).bool();
        let name = "causal_attention";
        Case::new(name, attention_shape([batch, seq], heads), move |form| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().require_grad());
            let scale = (heads[2] as f64).powf(-0.5);
            let y = match form {
                Form::Composed => composed_attention([q, k, v], hidden.clone(), scale),
                Form::Fused => causal_attention(q, k, v, AttentionConfig::new(scale)),
            };
            y.backward();
        })
    }

    /// Sequences of `len` tokens each.
    fn packed_attention(&self, [batch, seq]: [usize; 2], heads: Heads, len: usize) -> Case {
        let [q, k, v] = self.heads([batch, seq], heads);
        let firsts: Vec<i64> = (0..batch * seq)
            .map(|i| (i % seq / len * len) as i64)
            .collect();
        let starts =
            Tensor::<2, Int>::from_data(TensorData::new(firsts, [batch, seq]), self.device);
        let later = Tensor::<2>::ones([seq, seq], self.device).triu(1).bool();
        let keys = Tensor::<1, Int>::arange(0..seq as i64, self.device);
        let earlier = keys.unsqueeze::<2>().expand([seq, seq]).lower(
            starts
                .clone()
                .narrow(0, 0, 1)
                .transpose()
                .expand([seq, seq]),
        );
        let hidden = later.bool_or(earlier);
        let shape = attention_shape([batch, seq], heads);
        let name = "packed_causal_attention";
        Case::new(name, format!("{shape}, 8 sequences"), move |form| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().require_grad());
            let scale = (heads[2] as f64).powf(-0.5);
            let y = match form {
                Form::Composed => composed_attention([q, k, v], hidden.clone(), scale),
                Form::Fused => {
                    let config = AttentionConfig::new(scale);
                    packed_causal_attention(q, k, v, starts.clone(), config)
                }
            };
            y.backward();
        })
    }

    fn heads(&self, [batch, seq]: [usize; 2], [heads, kv_heads, d]: Heads) -> [Tensor<4>; 3] {
        [heads, kv_heads, kv_heads].map(|heads| self.random([batch, seq, heads, d]))
    }

    /// A frozen head, as QLoRA has it.
    fn cross_entropy(&self, [tokens, n, vocab]: [usize; 3]) -> Case {
        let hidden = self.random([tokens, n]);
        let weight = self.random([vocab, n]);
        let classes: Vec<i64> = (0..tokens).map(|i| (i * 7919 % vocab) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(classes, [tokens]), self.device);
        let shape = format!("{tokens} × {n} × {vocab}");
        Case::new("linear_cross_entropy", shape, move |form| {
            let hidden = hidden.clone().require_grad();
            let (weight, targets) = (weight.clone(), targets.clone());
            let loss = match form {
                Form::Composed => {
                    let logits = hidden.matmul(weight.transpose()).cast(DType::F32);
                    let targets = targets.reshape([tokens, 1]);
                    log_softmax(logits, 1).gather(1, targets).sum().neg()
                }
                Form::Fused => {
                    linear_cross_entropy(hidden, weight, targets, LogitsConfig::default())
                }
            };
            loss.backward();
        })
    }

    /// A frozen head with an adapter, whose factors are in f32.
    fn lora_cross_entropy(&self, [tokens, n, vocab]: [usize; 3], rank: usize) -> Case {
        let hidden = self.random([tokens, n]);
        let weight = self.random([vocab, n]);
        let [rows, factor] =
            [[tokens, rank], [rank, vocab]].map(|shape| self.random(shape).cast(DType::F32));
        let classes: Vec<i64> = (0..tokens).map(|i| (i * 7919 % vocab) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(classes, [tokens]), self.device);
        let shape = format!("{tokens} × {n} × {vocab}, rank {rank}");
        Case::new("lora_linear_cross_entropy", shape, move |form| {
            let hidden = hidden.clone().require_grad();
            let [rows, factor] = [&rows, &factor].map(|factor| factor.clone().require_grad());
            let (weight, targets) = (weight.clone(), targets.clone());
            let loss = match form {
                Form::Composed => {
                    let logits = hidden.matmul(weight.transpose()).cast(DType::F32);
                    let logits = logits + rows.matmul(factor);
                    let targets = targets.reshape([tokens, 1]);
                    log_softmax(logits, 1).gather(1, targets).sum().neg()
                }
                Form::Fused => {
                    let config = LogitsConfig::default();
                    lora_linear_cross_entropy(hidden, weight, [rows, factor], targets, config)
                }
            };
            loss.backward();
        })
    }
}

#[derive(Clone, Copy)]
enum Form {
    Composed,
    Fused,
}

impl Case {
    fn new(name: &'static str, shape: String, pass: impl Fn(Form) + Clone + 'static) -> Self {
        let again = pass.clone();
        Self {
            name,
            shape,
            composed: Box::new(move || pass(Form::Composed)),
            fused: Box::new(move || again(Form::Fused)),
        }
    }
}

fn attention_shape([batch, seq]: [usize; 2], [heads, kv_heads, d]: Heads) -> String {
    format!("{batch} × {seq}, {heads}/{kv_heads} × {d}")
}

fn composed_norm(x: Tensor<2>, weight: Tensor<1>) -> Tensor<2> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean = x.clone().square().mean_dim(1);
    (x / (mean + EPS).sqrt()).cast(dtype) * weight.unsqueeze()
}

fn composed_rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, seq, _, d] = x.dims();
    let [cos, sin] = [cos, sin].map(|table| table.reshape([1, seq, 1, d / 2]));
    let (low, high) = (x.clone().narrow(3, 0, d / 2), x.narrow(3, d / 2, d / 2));
    let turned_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    Tensor::cat(vec![turned_low, high * cos + low * sin], 3)
}

fn composed_attention(
    [q, k, v]: [Tensor<4>; 3],
    hidden: Tensor<2, burn::tensor::Bool>,
    scale: f64,
) -> Tensor<4> {
    let dtype = q.dtype();
    let [batch, seq, heads, d] = q.dims();
    let kv_heads = k.dims()[2];
    let repeat = |x: Tensor<4>| {
        x.swap_dims(1, 2)
            .reshape([batch, kv_heads, 1, seq, d])
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, seq, d])
    };
    let scores = q.swap_dims(1, 2).matmul(repeat(k).transpose()) * scale;
    let hidden = hidden.unsqueeze::<4>().expand([batch, heads, seq, seq]);
    let p = softmax(
        scores.cast(DType::F32).mask_fill(hidden, f32::NEG_INFINITY),
        3,
    );
    p.cast(dtype).matmul(repeat(v)).swap_dims(1, 2)
}

/// Returns the median seconds of the passes criterion asked for; `None` where its filter left the case out.
fn median(criterion: &mut Criterion, id: BenchmarkId, group: &str, pass: &Pass) -> Option<f64> {
    let mut seconds = Vec::new();
    let mut group = criterion.benchmark_group(group);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|passes| {
            let start = Instant::now();
            (0..passes).for_each(|_| pass());
            let elapsed = start.elapsed();
            seconds.push(elapsed.as_secs_f64() / passes as f64);
            elapsed
        });
    });
    group.finish();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied()
}

fn main() {
    // As in the program: results of megabytes come from memory that was used before.
    finetune::keep_freed_memory();
    let device = Device::flex().autodiff();
    let mut criterion = Criterion::default().configure_from_args();
    let mut table = String::new();
    // A ratio for each dtype.
    let mut groups: Vec<(String, Vec<f64>)> = Vec::new();
    for (dtype_name, dtype) in DTYPES {
        for case in cases(&device, dtype) {
            let group = format!("{} {}", case.name, case.shape);
            let mut run = |form, pass| {
                median(
                    &mut criterion,
                    BenchmarkId::new(form, dtype_name),
                    &group,
                    pass,
                )
            };
            let composed = run("composed", &case.composed);
            let fused = run("fused", &case.fused);
            let (Some(composed), Some(fused)) = (composed, fused) else {
                continue;
            };
            let ratio = composed / fused;
            table += &format!(
                "| `{}` | {} | {dtype_name} | {:.2} | {:.2} | {ratio:.1} |\n",
                case.name,
                case.shape,
                composed * 1e3,
                fused * 1e3,
            );
            match groups.iter_mut().find(|(label, _)| *label == group) {
                Some((_, ratios)) => ratios.push(ratio),
                None => groups.push((group, vec![ratio])),
            }
        }
    }
    if groups.is_empty() {
        return;
    }
    println!("\n| operation | shape | dtype | composed, ms | fused, ms | times as fast |");
    println!("| --- | --- | --- | --- | --- | --- |\n{table}");
    let chart = BarChart {
        title: "Fused operations against composed ones, forward + backward".into(),
        axis: "times as fast".into(),
        mark: Some(1.0),
        series: DTYPES.map(|(name, _)| name.to_string()).to_vec(),
        groups,
    };
    let path = charts_dir().join("fused.svg");
    if let Err(error) = write(&path, &chart.svg()) {
        eprintln!("{}: {error}", path.display());
    }
}
