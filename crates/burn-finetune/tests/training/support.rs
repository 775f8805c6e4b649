//! Devices, a toy model, and recordings.

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_finetune::{Dataset, Row, TrainConfig, Trainer};
use burn_qlora::{
    BlockwiseTensor, CausalLm, LoraConfig, LoraModel, QLoraLinear, QuantConfig, TokenBatch,
    attach_adapters,
};
use qlora_test_support::{TestDevice, alone};

/// Runs `test` on a device with autodiff. Burn's generators of random numbers are one for the whole process, so tests take turns.
pub fn run(device: TestDevice, test: fn(&Device)) {
    let _alone = alone();
    test(&device.device.autodiff());
}

pub const VOCAB: usize = 17;
const HIDDEN: usize = 32;
pub const CONTEXT: usize = 12;

/// Predicts the next token from the current one and the mean of those before it.
#[derive(Module, LoraModel, Debug)]
pub struct Toy {
    embedding: Param<Tensor<2>>,
    mix: QLoraLinear,
    head: QLoraLinear,
}

impl Toy {
    pub fn new(device: &Device, dropout: f64) -> Self {
        device.seed(1);
        let matrix = |shape: [usize; 2], std| {
            Tensor::<2>::random(shape, Distribution::Normal(0.0, std), device)
        };
        let mix = BlockwiseTensor::quantize(matrix([HIDDEN, HIDDEN], 0.2), QuantConfig::default());
        let mut toy = Self {
            embedding: Param::from_tensor(matrix([VOCAB, HIDDEN], 1.0)),
            mix: QLoraLinear::quantized(mix.unwrap(), None),
            head: QLoraLinear::dense(matrix([VOCAB, HIDDEN], 0.2), None),
        };
        attach_adapters(&mut toy, &lora(dropout), 2).unwrap();
        toy
    }

    /// Makes every loss on a row with `token` in it no number.
    pub fn spoil(&mut self, token: usize) {
        let embedding = self.embedding.val();
        let row = Tensor::full([1, HIDDEN], f32::NAN, &embedding.device());
        let spoiled = embedding.slice_assign([token..token + 1, 0..HIDDEN], row);
        self.embedding = Param::from_tensor(spoiled.detach());
    }

    /// The values of every factor, in order.
    pub fn factors(&self) -> Vec<Vec<f32>> {
        self.lora_linears()
            .into_iter()
            .filter_map(|(_, linear)| linear.adapter.as_ref())
            .flat_map(|branch| [&branch.lora.a, &branch.lora.b])
            .map(|factor| factor.val().into_data().iter::<f32>().collect())
            .collect()
    }
}

pub fn lora(dropout: f64) -> LoraConfig {
    LoraConfig::new(4, 8.0).with_dropout(dropout)
}

impl CausalLm for Toy {
    fn loss_sum(&self, batch: &TokenBatch) -> Tensor<1> {
        self.losses(batch).sum()
    }

    fn token_losses(&self, batch: &TokenBatch) -> Option<Tensor<2>> {
        Some(self.losses(batch))
    }

    fn device(&self) -> Device {
        self.embedding.lazy_device()
    }

    fn context_len(&self) -> usize {
        CONTEXT
    }
}

impl Toy {
    /// The negative log-likelihood of every target.
    fn losses(&self, batch: &TokenBatch) -> Tensor<2> {
        let (input_ids, targets) = (batch.input_ids.clone(), batch.targets.clone());
        let [batch, seq] = input_ids.dims();
        let x = self
            .embedding
            .val()
            .select(0, input_ids.reshape([batch * seq]))
            .reshape([batch, seq, HIDDEN]);
        let past = Tensor::<2>::ones([seq, seq], &x.device()).tril(0);
        let past = past.clone() / past.sum_dim(1);
        let x = x.clone() + past.unsqueeze::<3>().matmul(x);
        let logits = self.head.forward(self.mix.forward(x).tanh());
        let logits: Tensor<2> = logits.reshape([batch * seq, VOCAB]);
        let targets: Tensor<2, Int> = targets.reshape([batch * seq, 1]);
        let ignored = targets.clone().lower_elem(0);
        let picked = log_softmax(logits, 1).gather(1, targets.clamp_min(0));
        let losses = picked.mask_fill(ignored, 0.0).neg();
        losses.reshape([batch, seq])
    }
}

/// Rows of unequal length in which every token follows from the one before it.
pub fn rows(count: usize) -> Dataset {
    let rows = (0..count)
        .map(|row| {
            let len = 2 + (row * 5) % (CONTEXT - 1);
            let ids = (0..len)
                .scan((row * 7 % VOCAB) as u32, |id, _| {
                    *id = (*id * 3 + 1) % VOCAB as u32;
                    Some(*id)
                })
                .collect();
            Row::all(ids)
        })
        .collect();
    Dataset::from_rows(rows)
}

pub fn config(steps: usize) -> TrainConfig {
    TrainConfig {
        steps,
        batch_size: 3,
        grad_accum: 2,
        lr: 2e-2,
        warmup_steps: 2,
        weight_decay: 0.01,
        seed: 7,
        ..TrainConfig::default()
    }
}

pub fn trainer(device: &Device, dropout: f64, steps: usize) -> Trainer<Toy> {
    Trainer::new(Toy::new(device, dropout), config(steps)).unwrap()
}
