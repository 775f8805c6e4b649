//! The recorded models, adapters and batches in this project's types.

use burn::tensor::{Device, Tensor, TensorData};
use burn_finetune::{Batch, TrainConfig, Trainer, TrainerBuilder};
use burn_qlora::{LoraModel, TokenBatch, peft};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions};
use qlora_test_support::{Recording, fixture, json, values};

/// The recorded model `name`, its weights as they are stored, in f32.
pub fn model(name: &str, device: &Device) -> Decoder {
    model_in(ComputeDtype::F32, name, device)
}

fn model_in(dtype: ComputeDtype, name: &str, device: &Device) -> Decoder {
    let checkpoint = Checkpoint::open(fixture(name)).unwrap();
    let options = LoadOptions::default().with_compute_dtype(dtype);
    Decoder::load(&checkpoint, &options, device).unwrap()
}

/// [`model`] with the recorded adapter in folder `adapter`.
pub fn adapted(name: &str, adapter: &str, device: &Device) -> Decoder {
    adapted_in(ComputeDtype::F32, name, adapter, device)
}

fn adapted_in(dtype: ComputeDtype, name: &str, adapter: &str, device: &Device) -> Decoder {
    let mut model = model_in(dtype, name, device);
    peft::load(&mut model, fixture(adapter)).unwrap();
    model
}

/// The settings the curve was recorded with.
pub fn curve_config(curve: &serde_json::Value) -> TrainConfig {
    let number = |key: &str| curve[key].as_f64().unwrap();
    TrainConfig {
        steps: curve["steps"].as_u64().unwrap() as usize,
        lr: number("lr"),
        warmup_steps: curve["warmup_steps"].as_u64().unwrap() as usize,
        weight_decay: number("weight_decay"),
        beta_1: curve["betas"][0].as_f64().unwrap(),
        beta_2: curve["betas"][1].as_f64().unwrap(),
        epsilon: number("eps"),
        max_grad_norm: number("max_grad_norm"),
        shuffle: false,
        ..TrainConfig::default()
    }
}

/// A trainer at the start of the recorded curve, in f32.
pub fn curve_trainer(device: &Device) -> Trainer<Decoder> {
    curve_builder(ComputeDtype::F32, device).build().unwrap()
}

/// The parts of a trainer at the start of the recorded curve.
pub fn curve_builder(dtype: ComputeDtype, device: &Device) -> TrainerBuilder<Decoder> {
    let model = adapted_in(
        dtype,
        "tiny_llama_nf4",
        "qlora_curve/init_adapter",
        &device.clone().autodiff(),
    );
    let config = curve_config(&json("qlora_curve/curve.json"));
    TrainerBuilder::new(model, config).unwrap()
}

/// The recorded batches of the curve, as rows of ids and labels.
pub struct CurveBatches {
    input_ids: Vec<i64>,
    labels: Vec<i64>,
    rows: usize,
    seq: usize,
}

impl CurveBatches {
    /// Reads them.
    pub fn open() -> Self {
        let recording = Recording::open("qlora_curve/batches.safetensors");
        let shape = recording.shape("input_ids");
        Self {
            input_ids: recording.i64("input_ids"),
            labels: recording.i64("labels"),
            rows: shape[1],
            seq: shape[2],
        }
    }

    /// The batch of `step`, as micro-batches of at most `rows` rows.
    pub fn of(&self, step: usize, rows: usize, device: &Device) -> Vec<Batch> {
        let size = self.rows * self.seq;
        let place = step * size..(step + 1) * size;
        let ids = self.input_ids[place.clone()].chunks(rows * self.seq);
        let labels = self.labels[place].chunks(rows * self.seq);
        ids.zip(labels)
            .map(|(ids, labels)| batch(ids, labels, self.seq, device))
            .collect()
    }

    /// Rows of a whole batch.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// transformers' `labels` sit on the token they are about; a target sits on the token before.
fn batch(ids: &[i64], labels: &[i64], seq: usize, device: &Device) -> Batch {
    let targets: Vec<i64> = labels
        .chunks(seq)
        .flat_map(|row| row[1..].iter().copied().chain([TokenBatch::IGNORED]))
        .collect();
    let shape = [ids.len() / seq, seq];
    Batch {
        target_tokens: targets.iter().filter(|target| **target >= 0).count(),
        tokens: ids.len(),
        tensors: TokenBatch {
            input_ids: Tensor::from_data(TensorData::new(ids.to_vec(), shape), device),
            starts: None,
            targets: Tensor::from_data(TensorData::new(targets, shape), device),
        },
    }
}

/// The bits of every adapter factor of `model`, in the order of its layers.
pub fn adapter_bits(model: &impl LoraModel) -> Vec<u32> {
    model
        .lora_linears()
        .into_iter()
        .filter_map(|(_, linear)| linear.adapter.as_ref())
        .flat_map(|branch| [branch.lora.a.val(), branch.lora.b.val()])
        .flat_map(values)
        .map(f32::to_bits)
        .collect()
}
