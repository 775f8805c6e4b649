//! What a model loses in 4 bits, by the data type, and what of that a short fine-tuning brings back: QLoRA's comparison of data
//! types (section 4) on a small model. Nothing is timed, so it is no bench.
//!
//! `cargo run --release -p qlora-benches --example data_types -- smollm2` (or `gemma3`) prints a table and writes
//! `data-types-MODEL.svg` to the folder that `QLORA_CHARTS` names; a number behind the model's name is that of the steps. What counts as full precision is what the model's GGUF file
//! decodes to: those files are quantized themselves, because no 16-bit file of these models comes by a package registry.
//!
//! Training and measuring are on the notes of the demo, every token of them; the rows, their order and the adapters' first values
//! are the same for every type. llama.cpp's types are those of candle's quantizer. Where rows are no multiple of Q4_K's
//! 256, it is Q5_0 in its place, as in llama.cpp.

use std::error::Error;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use burn_finetune::{Batch, Row, TrainConfig, TrainerBuilder};
use burn_qlora::{
    BaseWeight, CausalLm, Codebook, LoraConfig, LoraModel, QuantConfig, attach_adapters, loftq_init,
};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, Weights};
use candle_core::quantized::{GgmlDType, QTensor};
use qlora_benches::chart::{BarChart, write};
use qlora_benches::charts_dir;
use qlora_test_support::{gemma3, smollm2};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RANK: usize = 16;
const STEPS: usize = 24;
const BATCH: usize = 4;
const HELD_OUT: usize = 32;

/// A data type of the projections.
#[derive(Clone, Copy)]
enum DataType {
    Full,
    /// The blocks of the model's file.
    Kept,
    Quantized {
        config: QuantConfig,
        loftq: bool,
    },
    Ggml(GgmlDType),
}

impl DataType {
    /// Returns all types with their names.
    fn all() -> Vec<(&'static str, Self)> {
        let ours = |codebook, double_quant, loftq| Self::Quantized {
            config: QuantConfig {
                codebook,
                double_quant,
                ..QuantConfig::default()
            },
            loftq,
        };
        vec![
            ("f32", Self::Full),
            ("keep", Self::Kept),
            ("NF4", ours(Codebook::Nf4, false, false)),
            ("NF4 + DQ", ours(Codebook::Nf4, true, false)),
            ("NF4 + DQ, LoftQ", ours(Codebook::Nf4, true, true)),
            ("FP4", ours(Codebook::Fp4, false, false)),
            ("Int4", ours(Codebook::Int4, false, false)),
            ("Q4_0", Self::Ggml(GgmlDType::Q4_0)),
            ("Q4_K", Self::Ggml(GgmlDType::Q4K)),
        ]
    }

    /// Loads the model with projections of this type and adapters.
    fn load(self, checkpoint: &Checkpoint, device: &Device) -> Result<Decoder> {
        let weights = match self {
            Self::Quantized { config, .. } => Weights::Quantized(config),
            Self::Full | Self::Ggml(_) => Weights::Dense,
            Self::Kept => Weights::Kept,
        };
        let mut model = Decoder::load(checkpoint, &LoadOptions::new(weights), device)?;
        if let Self::Ggml(dtype) = self {
            round(&mut model, dtype)?;
        }
        attach_adapters(&mut model, &LoraConfig::new(RANK, 2.0 * RANK as f64), 0)?;
        if matches!(self, Self::Quantized { loftq: true, .. }) {
            loftq_init(&mut model, 0, |path, shape| {
                let values = checkpoint.read_f32(&format!("{path}.weight"), &shape);
                values.map_err(Box::<dyn Error>::from)
            })?;
        }
        Ok(model)
    }
}

/// Replaces every projection's weight by what is left of it in `dtype`.
fn round(model: &mut Decoder, dtype: GgmlDType) -> Result<()> {
    for (path, linear) in model.lora_linears_mut() {
        let (shape, device) = (linear.shape(), linear.device());
        let BaseWeight::Dense(weight) = &mut linear.weight else {
            return Err(format!("{path} is not dense").into());
        };
        let values: Vec<f32> = weight.val().into_data().iter::<f32>().collect();
        let dtype = match shape[1] % dtype.block_size() {
            0 => dtype,
            _ => GgmlDType::Q5_0,
        };
        let cpu = candle_core::Device::Cpu;
        let values = candle_core::Tensor::from_vec(values, (shape[0], shape[1]), &cpu)?;
        let values = QTensor::quantize(&values, dtype)?.dequantize(&cpu)?;
        let values = TensorData::new(values.flatten_all()?.to_vec1::<f32>()?, shape);
        *weight = Param::from_tensor(Tensor::from_data(values, &device)).set_require_grad(false);
    }
    Ok(())
}

/// Reads the notes of a file of the demo as rows of tokens.
fn rows(checkpoint: &Checkpoint, file: &str) -> Result<Vec<Row>> {
    let tokenizer = checkpoint.tokenizer()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo-records/data");
    let text = std::fs::read_to_string(path.join(file))?;
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let part = |key: &str| row[key].as_str().unwrap_or_default();
        let text = [part("prompt"), part("completion")].concat();
        let encoded = tokenizer.encode(text, true);
        Ok(Row::all(
            encoded
                .map_err(|error| error.to_string())?
                .get_ids()
                .to_vec(),
        ))
    };
    text.lines().map(row).collect()
}

/// Returns the mean negative log-likelihood of the rows' tokens, in nats.
fn nll(model: &Decoder, rows: &[Row], device: &Device) -> f64 {
    let (mut sum, mut tokens) = (0.0, 0);
    for rows in rows.chunks(BATCH) {
        let batch = Batch::collate(&rows.iter().collect::<Vec<_>>(), device);
        tokens += batch.target_tokens;
        sum += f64::from(model.loss_sum(&batch.tensors).into_scalar::<f32>());
    }
    sum / tokens as f64
}

/// Trains the adapters for `steps`.
fn train(model: Decoder, rows: &[Row], steps: usize, device: &Device) -> Result<Decoder> {
    let config = TrainConfig {
        steps,
        lr: 1e-3,
        ..TrainConfig::default()
    };
    let mut trainer = TrainerBuilder::new(model, config)?.build()?;
    for rows in rows.chunks(BATCH).cycle().take(steps) {
        trainer.step(&[Batch::collate(&rows.iter().collect::<Vec<_>>(), device)])?;
    }
    Ok(trainer.into_model())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let (path, title) = match name.as_str() {
        "smollm2" => (smollm2(), "SmolLM2-135M-Instruct (from Q4_1)"),
        "gemma3" => (gemma3(), "Gemma 3 270M (from Q4_K_M)"),
        other => return Err(format!("name a model: smollm2 or gemma3, not `{other}`").into()),
    };
    let steps = match arguments.next() {
        Some(steps) => steps.parse()?,
        None => STEPS,
    };
    let checkpoint = Checkpoint::open(path)?;
    let learnt = rows(&checkpoint, "records-train.jsonl")?;
    let mut held_out = rows(&checkpoint, "records-held-out.jsonl")?;
    held_out.truncate(HELD_OUT);
    let device = Device::flex();
    let mut groups = Vec::new();
    println!("{title}, held-out loss before and after {steps} steps\n");
    println!("| data type | before | after |\n| --- | --- | --- |");
    for (name, data_type) in DataType::all() {
        let model = data_type.load(&checkpoint, &device.clone().autodiff())?;
        let before = nll(&model, &held_out, &device.clone().autodiff());
        let model = train(model, &learnt, steps, &device.clone().autodiff())?;
        let after = nll(&model, &held_out, &device.clone().autodiff());
        println!("| {name} | {before:.4} | {after:.4} |");
        groups.push((name.to_owned(), vec![before, after]));
    }
    let chart = BarChart {
        title: format!("Held-out loss of {title} by the data type of its weights"),
        axis: "nats a token".into(),
        mark: None,
        series: vec!["as quantized".into(), format!("after {steps} steps")],
        groups,
    };
    write(
        &charts_dir().join(format!("data-types-{name}.svg")),
        &chart.svg(),
    )?;
    Ok(())
}
