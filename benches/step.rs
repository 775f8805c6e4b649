//! A whole training step of a real model: forward, backward, clipping and update, batch 4 × 256 and 1 × 1024, rank 16 on
//! all linear layers, in each compute dtype, with and without layer checkpointing.
//!
//! `cargo bench -p qlora-benches --bench step` runs on Flex. `QLORA_SMOLLM2` names the model, by default the
//! SmolLM2-135M-Instruct that `scripts/fetch-smollm2.sh` puts into the cache folder.

use burn::tensor::Device;
use burn_finetune::{Batch, Row, TrainConfig, Trainer, TrainerBuilder};
use burn_qlora::{Checkpointing, LoraConfig, QuantConfig, attach_adapters};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qlora_test_support::smollm2;

const SHAPES: [[usize; 2]; 2] = [[4, 256], [1, 1024]];
const RANK: usize = 16;

fn trainer(
    checkpoint: &Checkpoint,
    dtype: ComputeDtype,
    checkpointing: Checkpointing,
    device: &Device,
) -> Trainer<Decoder> {
    let options = LoadOptions::quantized(QuantConfig::default()).with_compute_dtype(dtype);
    let mut model = Decoder::load(checkpoint, &options, device).expect("the model should load");
    let lora = LoraConfig::new(RANK, 2.0 * RANK as f64);
    attach_adapters(&mut model, &lora, 0).expect("every linear layer can be adapted");
    TrainerBuilder::new(model, TrainConfig::default())
        .and_then(|builder| builder.with_checkpointing(checkpointing)?.build())
        .expect("the default configuration is valid")
}

/// Returns rows of arbitrary tokens, all of them to be learnt.
fn batch([rows, seq]: [usize; 2], vocab: usize, device: &Device) -> Batch {
    let rows: Vec<Row> = (0..rows)
        .map(|row| {
            Row::all(
                (0..seq)
                    .map(|i| ((row * 7919 + i * 104_729) % vocab) as u32)
                    .collect(),
            )
        })
        .collect();
    Batch::collate(&rows.iter().collect::<Vec<_>>(), device)
}

fn step(criterion: &mut Criterion) {
    let checkpoint = Checkpoint::open(smollm2()).expect("the model should open");
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        let batch = batch(shape, checkpoint.config().vocab_size, &device);
        let [rows, seq] = shape;
        let mut group = criterion.benchmark_group(format!("step/{rows}x{seq}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements((rows * seq) as u64));
        for dtype in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for (name, checkpointing) in [
                ("none", Checkpointing::None),
                ("layer", Checkpointing::Layer),
            ] {
                let mut trainer = trainer(&checkpoint, dtype, checkpointing, &device);
                let id = BenchmarkId::new(dtype.to_string(), format!("checkpointing {name}"));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let batches = std::slice::from_ref(&batch);
                        trainer.step(batches).expect("the loss should be finite")
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
