//! The recorded models, adapters and batches in this project's types.

use std::convert::Infallible;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use burn_finetune::{Batch, TrainConfig, Trainer, TrainerBuilder};
use burn_paged::WeightPages;
use burn_qlora::{BaseWeight, LoraModel, TokenBatch, merge_linears, peft};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions};
use qlora_test_support::{Recording, fixture, json, targets, values};
use serde_json::Value;

/// The recorded model `name`, its weights as they are stored, in f32.
pub fn model(name: &str, device: &Device) -> Decoder {
    model_in(ComputeDtype::F32, name, device)
}

fn model_in(dtype: ComputeDtype, name: &str, device: &Device) -> Decoder {
    let checkpoint =
        Checkpoint::open(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let options = LoadOptions::default().with_compute_dtype(dtype);
    Decoder::load(&checkpoint, &options, device).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// [`model`] with the recorded adapter in folder `adapter`.
pub fn adapted(name: &str, adapter: &str, device: &Device) -> Decoder {
    adapted_in(ComputeDtype::F32, name, adapter, device)
}

fn adapted_in(dtype: ComputeDtype, name: &str, adapter: &str, device: &Device) -> Decoder {
    let mut model = model_in(dtype, name, device);
    peft::load(&mut model, fixture(adapter)).unwrap_or_else(|error| panic!("{adapter}: {error}"));
    model
}

/// A recorded training run.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The model.
    base: String,
    /// The adapter that it starts from.
    adapter: String,
    /// The folder of its batches and results.
    folder: String,
}

impl Curve {
    /// Returns the run of thirty steps on a LLaMA, from a fresh adapter.
    pub fn llama() -> Self {
        Self {
            base: "tiny_llama_nf4".into(),
            adapter: "qlora_curve/init_adapter".into(),
            folder: "qlora_curve".into(),
        }
    }

    /// Returns the run of six steps on a model of another family, from an adapter of random factors.
    pub fn of_family(family: &str) -> Self {
        Self {
            base: format!("families/{family}/nf4"),
            adapter: format!("families/{family}/adapter"),
            folder: format!("families/{family}/curve"),
        }
    }

    /// Returns the run of five steps with rows of tokens trained, on the LLaMA with tied embeddings or the other, `run`, which
    /// has to be extended by three tokens first.
    pub fn of_tokens(run: &str) -> Self {
        let folder = format!("trainable_tokens/{run}");
        Self {
            base: "tiny_llama".into(),
            adapter: format!("{folder}/init_adapter"),
            folder,
        }
    }

    /// Returns the run of ten steps with an adapter on the head, `run`, on the LLaMA, on that with tied embeddings, or on a Gemma 2,
    /// whose embeddings are tied and whose logits are capped.
    pub fn of_head(run: &str) -> Self {
        let folder = format!("head_adapters/{run}");
        let base = match run {
            "untied" => "tiny_llama",
            "tied" => "tiny_llama_tied",
            _ => "families/gemma2",
        };
        Self {
            base: base.into(),
            adapter: format!("{folder}/init_adapter"),
            folder,
        }
    }

    /// Returns the settings and what each step gave.
    pub fn recorded(&self) -> Value {
        json(&format!("{}/curve.json", self.folder))
    }

    /// Returns the settings it was recorded with.
    pub fn config(&self) -> TrainConfig {
        let recorded = self.recorded();
        let number = |key: &str| recorded[key].as_f64().unwrap();
        TrainConfig {
            steps: recorded["steps"].as_u64().unwrap() as usize,
            lr: number("lr"),
            warmup_steps: recorded["warmup_steps"].as_u64().unwrap() as usize,
            weight_decay: number("weight_decay"),
            beta_1: recorded["betas"][0].as_f64().unwrap(),
            beta_2: recorded["betas"][1].as_f64().unwrap(),
            epsilon: number("eps"),
            max_grad_norm: number("max_grad_norm"),
            shuffle: false,
            ..TrainConfig::default()
        }
    }

    /// Returns the model at the start, with its adapter.
    pub fn model(&self, dtype: ComputeDtype, device: &Device) -> Decoder {
        adapted_in(dtype, &self.base, &self.adapter, device)
    }

    /// Returns the parts of a trainer at the start.
    pub fn builder(&self, dtype: ComputeDtype, device: &Device) -> TrainerBuilder<Decoder> {
        let model = self.model(dtype, &device.clone().autodiff());
        TrainerBuilder::new(model, self.config()).unwrap()
    }

    /// Returns the parts of a trainer at the start, in f32, with packed weights in `pages`.
    pub fn paged_builder(&self, pages: WeightPages, device: &Device) -> TrainerBuilder<Decoder> {
        let checkpoint = Checkpoint::open(fixture(&self.base)).unwrap();
        let (options, device) = (LoadOptions::default(), device.clone().autodiff());
        let mut model = Decoder::load_paged(&checkpoint, &options, &device, pages).unwrap();
        peft::load(&mut model, fixture(&self.adapter)).unwrap();
        TrainerBuilder::new(model, self.config()).unwrap()
    }

    /// Returns a trainer at the start, in f32.
    pub fn trainer(&self, device: &Device) -> Trainer<Decoder> {
        self.builder(ComputeDtype::F32, device).build().unwrap()
    }

    /// Returns the name of the model.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the model as it was at the end.
    pub fn trained(&self, device: &Device) -> Decoder {
        adapted(
            &self.base,
            &format!("{}/final_adapter", self.folder),
            device,
        )
    }

    /// Reads the batches.
    pub fn batches(&self) -> CurveBatches {
        let recording = Recording::open(&format!("{}/batches.safetensors", self.folder));
        let shape = recording.shape("input_ids");
        CurveBatches {
            input_ids: recording.i64("input_ids"),
            labels: recording.i64("labels"),
            rows: shape[1],
            seq: shape[2],
        }
    }
}

/// The recorded batches of a [`Curve`], as rows of ids and labels.
pub struct CurveBatches {
    input_ids: Vec<i64>,
    labels: Vec<i64>,
    rows: usize,
    seq: usize,
}

impl CurveBatches {
    /// The batch of `step`.
    pub fn whole(&self, step: usize, device: &Device) -> Batch {
        self.of(step, self.rows, device).remove(0)
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
}

fn batch(ids: &[i64], labels: &[i64], seq: usize, device: &Device) -> Batch {
    let targets = targets(labels, seq);
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

/// Merges the adapters of a model on dense weights into them.
pub fn merge(model: &mut Decoder) {
    let mut merged = Vec::new();
    merge_linears(model, |_, weight| {
        merged.push(weight);
        Ok::<(), Infallible>(())
    })
    .unwrap();
    for ((path, linear), weight) in model.lora_linears_mut().into_iter().zip(merged) {
        let BaseWeight::Dense(base) = &mut linear.weight else {
            panic!("{path} should be dense");
        };
        *base = Param::from_tensor(weight);
        linear.adapter = None;
    }
}

/// The bits of every adapter factor of `model`, in the order of its layers.
pub fn adapter_bits(model: &impl LoraModel) -> Vec<u32> {
    adapter_values(model)
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

/// The values of every adapter factor of `model`, in the order of its layers.
pub fn adapter_values(model: &impl LoraModel) -> Vec<f32> {
    model
        .lora_adapters()
        .into_iter()
        .flat_map(|(_, branch)| [branch.lora.a.val(), branch.lora.b.val()])
        .flat_map(values)
        .collect()
}
