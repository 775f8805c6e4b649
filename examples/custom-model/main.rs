//! A language model of one's own in burn-finetune's trainer: it derives `LoraModel` (which layers are quantized and carry
//! adapters), implements `CausalLm` (its loss on a batch of tokens), and gets data, schedule, clipping, paged AdamW,
//! checkpoints and evaluation.
//!
//! ```text
//! cargo run --release --example custom-model [DIRECTORY FOR THE ADAPTER]
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Distribution, Tensor};
use burn_finetune::{
    Dataset, Event, Row, RunOptions, ScheduleKind, TrainConfig, Trainer, evaluate,
};
use burn_fused::{LogitsConfig, linear_cross_entropy};
use burn_qlora::{
    AnyLinear, AnyLinearConfig, CausalLm, LoraConfig, LoraModel, QuantConfig, TokenBatch,
    attach_adapters, peft,
};

const TEXT: &str = "She sells sea shells on the sea shore. The shells she sells are sea shells, I am sure. \
    So if she sells sea shells on the sea shore, then I am sure she sells sea shore shells.";
const VOCAB: usize = 256;
const WIDTH: usize = 64;
const CONTEXT: usize = 32;
const ROWS_AT_ONCE: usize = 4;

/// Predicts the next byte of a text from the last two.
#[derive(Module, LoraModel, Debug)]
struct NextByte {
    embedding: Embedding,
    up: AnyLinear,
    down: AnyLinear,
    /// `[VOCAB, WIDTH]`.
    head: Param<Tensor<2>>,
}

impl NextByte {
    /// Returns a model with random weights, the linear layers in 4 bits.
    fn new(device: &Device) -> Result<Self> {
        device.seed(1);
        let head = Tensor::random([VOCAB, WIDTH], Distribution::Normal(0.0, 0.1), device);
        let mut model = Self {
            embedding: EmbeddingConfig::new(VOCAB, WIDTH).init(device),
            up: AnyLinearConfig::new(2 * WIDTH, 4 * WIDTH).init(device),
            down: AnyLinearConfig::new(4 * WIDTH, WIDTH).init(device),
            head: Param::from_tensor(head),
        };
        model.quantize(&QuantConfig::default())?;
        Ok(model)
    }
}

impl CausalLm for NextByte {
    fn loss_sum(&self, batch: &TokenBatch) -> Tensor<1> {
        let [rows, seq] = batch.input_ids.dims();
        let last = self.embedding.forward(batch.input_ids.clone());
        let none = Tensor::zeros([rows, 1, WIDTH], &last.device());
        let earlier = last.clone().slice([0..rows, 0..seq - 1, 0..WIDTH]);
        let last_but_one = Tensor::cat(vec![none, earlier], 1);
        let x = Tensor::cat(vec![last, last_but_one], 2);
        let hidden = self.down.forward(gelu(self.up.forward(x)));
        // Targets that are not to be learnt, such as padding, count nothing here.
        linear_cross_entropy(
            hidden.reshape([rows * seq, WIDTH]),
            self.head.val(),
            batch.targets.clone().reshape([rows * seq]),
            LogitsConfig::default(),
        )
    }

    fn device(&self) -> Device {
        self.head.lazy_device()
    }

    fn context_len(&self) -> usize {
        CONTEXT
    }
}

/// Trains adapters, saves them to `dir`, and returns the loss of a token before and after.
fn train(dir: &Path) -> Result<(f64, f64)> {
    // Rows of text; `Dataset::read` makes them from JSONL files with a tokenizer.
    let ids: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    let rows = ids.chunks(CONTEXT).map(|ids| Row::all(ids.to_vec()));
    let data = Dataset::from_rows(rows.collect());

    let mut model = NextByte::new(&Device::flex().autodiff())?;
    let lora = LoraConfig::new(16, 32.0);
    attach_adapters(&mut model, &lora, 0)?;
    let before = evaluate(&model, &data, ROWS_AT_ONCE)?.nll;

    let config = TrainConfig {
        steps: 60,
        batch_size: ROWS_AT_ONCE,
        lr: 1e-2,
        schedule: ScheduleKind::Cosine,
        max_grad_norm: 1.0,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, config)?;
    trainer.run(&data, &RunOptions::default(), &mut |event| {
        if let Event::Step(report) = event
            && report.step % 10 == 0
        {
            println!("step {:>2}: loss {:.4}", report.step, report.loss);
        }
    })?;
    let model = trainer.into_model();
    peft::save(&model, &lora, "next-byte", dir)?;
    Ok((before, evaluate(&model, &data, ROWS_AT_ONCE)?.nll))
}

fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("custom-model"), PathBuf::from);
    let (before, after) = train(&dir)?;
    println!("loss {before:.4} before, {after:.4} after");
    println!("the adapter is in {}", dir.display());
    ensure!(
        after < 0.5 * before,
        "the adapters should have learnt the text"
    );
    Ok(())
}

#[test]
fn the_loss_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = train(dir.path()).unwrap();
    assert!(after < 0.5 * before, "{before} before, {after} after");
}
