//! The command line: every command, every flag, its default and its help.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use burn_finetune::OptimizerKind;
use burn_paged::Budget;
use burn_qlora::{Checkpointing, LoraConfig, Targets};
use burn_qlora_llama::ComputeDtype;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceName;

/// Fine-tune a LLaMA in 4 bits, on the device you have.
///
/// The base model's weights stay 4-bit the whole time; what is trained are small LoRA adapters
/// that Hugging Face peft and llama.cpp read. A model is a Hugging Face directory (plain or
/// bitsandbytes 4-bit), a .gguf file, or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.
#[derive(Debug, Parser)]
#[command(name = "finetune", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  finetune train --model SmolLM2.gguf --data notes.jsonl --output run --epochs 3
  finetune plan --model SmolLM2.gguf --seq-len 4096 --checkpointing layer
  finetune eval --model SmolLM2.gguf --adapter run --data held-out.jsonl --exact-match
  finetune generate --model SmolLM2.gguf --adapter run --chat
  finetune quantize --model SmolLM2.gguf --output SmolLM2-nf4";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train LoRA adapters on a 4-bit model
    #[command(
        override_usage = "finetune train --model <MODEL> --data <FILE> --output <DIR> [OPTIONS]",
        after_help = TRAIN_HELP,
        mut_arg("data", |arg| arg.required_unless_present("config")),
        mut_arg("output", |arg| arg.required_unless_present("config"))
    )]
    Train(Box<TrainArgs>),
    /// Tell what a training run would take in memory, before it loads anything
    #[command(
        override_usage = "finetune plan --model <MODEL> [OPTIONS OF TRAIN]",
        after_help = PLAN_HELP
    )]
    Plan(Box<TrainArgs>),
    /// Measure loss and perplexity on a data set, and how many answers come out exactly right
    Eval(EvalArgs),
    /// Let the model write: one prompt, or a chat
    Generate(GenerateArgs),
    /// Write the model as a 4-bit checkpoint that transformers + bitsandbytes load
    Quantize(QuantizeArgs),
}

const TRAIN_HELP: &str = "\
Data: a .jsonl file whose lines have `messages`, `prompt` and `completion`, or `text`; or a .txt
file, which is tokenised whole and cut into rows. Of messages and completions only the answers
are trained on.

The output directory gets the adapter (adapter_config.json, adapter_model.safetensors) and the
checkpoints to resume from. Ctrl-C finishes the step, saves, and says how to go on.";

const PLAN_HELP: &str = "\
Takes the flags and config files of `train`. With --data the rows are as long as they are there, without
it as long as --seq-len allows. No weight is read.";

/// `finetune train` and `finetune plan`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// TOML file with flags by their names (`batch-size = 8`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    /// The model.
    pub model: ModelArgs,
    #[command(flatten)]
    /// How its weights are held.
    pub quant: QuantArgs,

    /// Training data: .jsonl or .txt
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub data: Option<PathBuf>,
    /// Data to measure the loss on during and after training
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub eval_data: Option<PathBuf>,
    /// Most tokens in a row [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Data")]
    pub seq_len: Option<usize>,
    /// Cut rows that are longer than --seq-len, instead of refusing them
    #[arg(long, help_heading = "Data")]
    pub truncate: bool,
    /// Put several examples into a row where they fit into --seq-len together, which saves the padding. They do not
    /// see each other: the loss is that of the examples apart. A row of a batch is then such a row
    #[arg(long, help_heading = "Data")]
    pub packing: bool,
    /// Take the rows in the file's order
    #[arg(long, help_heading = "Data")]
    pub no_shuffle: bool,

    /// Directory for the adapter and the checkpoints
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Go on from the last checkpoint in the output directory
    #[arg(long, help_heading = "Output")]
    pub resume: bool,
    /// Append one JSON object a step: step, loss, grad_norm, lr, tokens, tokens_per_second,
    /// peak_rss_bytes, optimizer_state_bytes, optimizer_resident_bytes, optimizer_bytes_moved
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub log_json: Option<PathBuf>,
    /// Measure the loss on --eval-data every N steps (0: only at the end)
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Output")]
    pub eval_every: usize,
    /// Save a checkpoint every N steps (0: only at the end)
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Output")]
    pub save_every: usize,

    /// peft adapter to start from, in place of a fresh one
    #[arg(long, value_name = "DIR", help_heading = "Adapter", conflicts_with_all = ["rank", "alpha", "dropout", "rslora", "target"])]
    pub init_adapter: Option<PathBuf>,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value = "16", value_parser = positive, help_heading = "Adapter")]
    pub rank: usize,
    /// Scale of the adapters: alpha / rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA", value_parser = positive_number, help_heading = "Adapter")]
    pub alpha: Option<f64>,
    /// Dropout on the adapters' input
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability, help_heading = "Adapter")]
    pub dropout: f64,
    /// Scale by alpha / sqrt(rank) (rsLoRA)
    #[arg(long, help_heading = "Adapter")]
    pub rslora: bool,
    /// Layers that get an adapter: names, comma-separated (q_proj,v_proj), or all-linear
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "all-linear",
        value_delimiter = ',',
        help_heading = "Adapter"
    )]
    pub target: Vec<String>,

    /// Rows in a batch
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive, help_heading = "Training")]
    pub batch_size: usize,
    /// Batches in a step; equals one batch that many times as large
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive, help_heading = "Training")]
    pub grad_accum: usize,
    /// Steps to train [default: one epoch]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Training", conflicts_with = "epochs")]
    pub steps: Option<usize>,
    /// Times to go through the data
    #[arg(long, value_name = "N", value_parser = positive_number, help_heading = "Training")]
    pub epochs: Option<f64>,
    /// Learning rate at its highest
    #[arg(long, value_name = "LR", default_value = "2e-4", value_parser = not_negative, help_heading = "Training")]
    pub lr: f64,
    /// How the learning rate goes on after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleName::Constant, help_heading = "Training")]
    pub schedule: ScheduleName,
    /// Steps in which the learning rate rises from 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    pub warmup_steps: usize,
    /// The optimizer
    #[arg(long, value_enum, default_value_t = OptimizerName::Adamw, help_heading = "Training")]
    pub optimizer: OptimizerName,
    /// How much of a paged optimizer's state stays in memory: resident, auto (give way when memory is short), bytes
    /// (0, 512MiB, 2GiB) or a share (50%); the rest is streamed. Changes no result [default: auto where the device's
    /// memory is known, else resident]
    #[arg(long, value_name = "BUDGET", help_heading = "Training")]
    pub optimizer_budget: Option<Budget>,
    /// What everything together may take of the device's memory (24GB, 20GiB), for --optimizer-budget auto; only flex
    /// tells what there is, so on other devices auto needs it [default on flex: what the system has]
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "Training")]
    pub device_memory: Option<u64>,
    /// Decoupled weight decay
    #[arg(long, value_name = "W", default_value = "0", value_parser = not_negative, help_heading = "Training")]
    pub weight_decay: f64,
    /// Clip the gradients to this global norm (0: do not clip)
    #[arg(long, value_name = "NORM", default_value = "0.3", value_parser = not_negative, help_heading = "Training")]
    pub max_grad_norm: f64,
    /// What is kept for the backward pass: everything (none), or the inputs of the blocks, which then
    /// run twice (layer): less memory, the same numbers
    #[arg(long, value_enum, default_value_t = CheckpointingName::None, help_heading = "Training")]
    pub checkpointing: CheckpointingName,
    /// Seed of the adapters, the shuffling and the dropout
    #[arg(
        long,
        value_name = "N",
        default_value_t = 42,
        help_heading = "Training"
    )]
    pub seed: u64,
}

impl TrainArgs {
    /// The adapters the flags ask for.
    pub fn lora(&self) -> LoraConfig {
        let targets = match self.target.as_slice() {
            [all] if all == "all-linear" => Targets::AllLinear,
            names => Targets::Names(names.to_vec()),
        };
        LoraConfig::new(self.rank, self.alpha.unwrap_or(2.0 * self.rank as f64))
            .with_dropout(self.dropout)
            .with_rslora(self.rslora)
            .with_targets(targets)
    }

    /// The update rule the flags ask for.
    pub fn optimizer_kind(&self) -> OptimizerKind {
        match self.optimizer {
            OptimizerName::Adamw | OptimizerName::PagedAdamw => OptimizerKind::Adamw,
            OptimizerName::PagedAdamw8bit => OptimizerKind::Adamw8bit,
        }
    }

    /// What stays resident of the optimizer's state. It changes nothing of what a run computes.
    ///
    /// # Errors
    /// A budget for an optimizer that is not paged, and `auto` where nothing tells how much memory there is.
    pub fn budget(&self) -> Result<Budget> {
        let device = self.model.device;
        let known = self.device_memory.is_some() || device.is_flex();
        if self.optimizer == OptimizerName::Adamw {
            if self.optimizer_budget.is_some() || self.device_memory.is_some() {
                bail!(
                    "--optimizer-budget, --device-memory: adamw keeps all of its state in memory; choose \
                     --optimizer paged-adamw"
                );
            }
            return Ok(Budget::Resident);
        }
        match self.optimizer_budget {
            None if known => Ok(Budget::Auto),
            None => Ok(Budget::Resident),
            Some(Budget::Auto) if !known => bail!(
                "--optimizer-budget auto: {device} does not tell how much memory it has; say what may be taken, \
                 as --device-memory 24GB"
            ),
            Some(Budget::Auto) => Ok(Budget::Auto),
            Some(budget) if self.device_memory.is_some() => bail!(
                "--device-memory: only --optimizer-budget auto goes by it, and the budget is {budget}"
            ),
            Some(budget) => Ok(budget),
        }
    }
}

/// `finetune eval`.
#[derive(Args, Debug)]
#[command(override_usage = "finetune eval --model <MODEL> --data <FILE> [OPTIONS]")]
pub struct EvalArgs {
    /// TOML file with flags by their names (`seq-len = 512`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    /// The model.
    pub model: ModelArgs,
    #[command(flatten)]
    /// How its weights are held.
    pub quant: QuantArgs,
    /// peft adapter to put on the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Data to measure on: .jsonl or .txt
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Data",
        required_unless_present = "config"
    )]
    pub data: Option<PathBuf>,
    /// Most tokens in a row [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Data")]
    pub seq_len: Option<usize>,
    /// Cut rows that are longer than --seq-len, instead of refusing them
    #[arg(long, help_heading = "Data")]
    pub truncate: bool,
    /// Rows measured at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive, help_heading = "Data")]
    pub batch_size: usize,
    /// Use the first N rows only
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Data")]
    pub max_rows: Option<usize>,
    /// Also let the model answer each prompt (greedily) and count the answers that are exactly
    /// the expected ones
    #[arg(long, help_heading = "Output")]
    pub exact_match: bool,
    /// Print one JSON object as the last line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `finetune generate`.
#[derive(Args, Debug)]
#[command(
    override_usage = "finetune generate --model <MODEL> (--prompt <TEXT> | --chat) [OPTIONS]"
)]
pub struct GenerateArgs {
    /// TOML file with flags by their names (`max-tokens = 64`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    /// The model.
    pub model: ModelArgs,
    #[command(flatten)]
    /// How its weights are held.
    pub quant: QuantArgs,
    /// peft adapter to put on the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Text to continue
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        conflicts_with = "chat",
        allow_hyphen_values = true
    )]
    pub prompt: Option<String>,
    /// Talk with the model, turn by turn, in its own chat format
    #[arg(long, help_heading = "Text")]
    pub chat: bool,
    /// Most tokens to write, in a chat per turn
    #[arg(long, value_name = "N", default_value = "256", value_parser = positive, help_heading = "Text")]
    pub max_tokens: usize,
    /// 0 takes the likeliest token always; higher is livelier
    #[arg(long, value_name = "T", default_value = "0", value_parser = not_negative, help_heading = "Sampling")]
    pub temperature: f64,
    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = positive, help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", value_parser = share, help_heading = "Sampling")]
    pub top_p: Option<f64>,
    /// Seed of the sampling
    #[arg(
        long,
        value_name = "N",
        default_value_t = 42,
        help_heading = "Sampling"
    )]
    pub seed: u64,
}

/// `finetune quantize`.
#[derive(Args, Debug)]
#[command(override_usage = "finetune quantize --model <MODEL> --output <DIR> [OPTIONS]")]
pub struct QuantizeArgs {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Hugging Face directory, .gguf file or Hub id
    #[arg(long, value_name = "MODEL", required_unless_present = "config")]
    pub model: Option<String>,
    /// Directory for the checkpoint; must not exist or be empty
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    /// The format.
    pub quant: QuantArgs,
}

/// Which model, and where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Hugging Face directory (plain or bitsandbytes 4-bit), .gguf file or Hub id
    #[arg(long, value_name = "MODEL", required_unless_present = "config")]
    pub model: Option<String>,
    /// flex, wgpu, vulkan, metal, cuda, rocm or cpu, with a number if there are several (wgpu:1)
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::default())]
    pub device: DeviceName,
    /// What the model computes in; its 4-bit weights, the adapters and the optimizer do not depend on it
    #[arg(long, value_enum, default_value_t = ComputeDtypeName::F32)]
    pub compute_dtype: ComputeDtypeName,
}

impl ModelArgs {
    /// Finds the device on this machine.
    ///
    /// # Errors
    /// A device that is not there, or that cannot compute in `--compute-dtype`.
    pub fn open_device(&self) -> Result<Device> {
        let device = self.device.open()?;
        let dtype = ComputeDtype::from(self.compute_dtype);
        dtype
            .check(&device)
            .with_context(|| format!("--compute-dtype {dtype}"))?;
        Ok(device)
    }
}

/// A dtype to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeDtypeName {
    /// Exact, everywhere
    F32,
    /// Half the memory, the range of f32, 8 significant bits
    Bf16,
    /// Half the memory, a short range, 11 significant bits
    F16,
}

impl From<ComputeDtypeName> for ComputeDtype {
    fn from(name: ComputeDtypeName) -> Self {
        match name {
            ComputeDtypeName::F32 => Self::F32,
            ComputeDtypeName::Bf16 => Self::Bf16,
            ComputeDtypeName::F16 => Self::F16,
        }
    }
}

/// The 4-bit format of the base weights.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Quantization")]
pub struct QuantArgs {
    /// 4-bit format of the base weights, or none; a model that is 4-bit already keeps its own
    /// [default: nf4]
    #[arg(long, value_enum)]
    pub quant: Option<QuantName>,
    /// Weights that share a scale: 32 to 4096, a power of two
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub block_size: usize,
    /// Keep the scales in f32 (4.5 bits a weight in place of 4.13)
    #[arg(long)]
    pub no_double_quant: bool,
}

/// A 4-bit data type, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantName {
    /// 4-bit NormalFloat
    Nf4,
    /// 4-bit float, E2M1
    Fp4,
    /// Evenly spaced
    Int4,
    /// Keep full precision
    None,
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    /// Stays at its height
    Constant,
    /// Falls to 0 in a line
    Linear,
    /// Falls to 0 along half a cosine
    Cosine,
}

/// A trade of time for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointingName {
    /// Keep every value
    None,
    /// Keep the inputs of the blocks
    Layer,
}

impl fmt::Display for CheckpointingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Layer => "layer",
        })
    }
}

impl From<CheckpointingName> for Checkpointing {
    fn from(name: CheckpointingName) -> Self {
        match name {
            CheckpointingName::None => Self::None,
            CheckpointingName::Layer => Self::Layer,
        }
    }
}

/// An optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    /// Adam with decoupled weight decay, as in torch
    Adamw,
    /// The same bits, with state in pages that need not fit in memory
    PagedAdamw,
    /// Paged, with 8-bit state (2.03 bytes for each parameter in place of 8)
    #[value(name = "paged-adamw-8bit")]
    PagedAdamw8bit,
}

fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Budget::Bytes(bytes)) => Ok(bytes),
        _ => Err("must be a number of bytes, as 24GB or 20GiB".to_string()),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_string()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number of at least 1".to_string()),
    }
}

fn number(text: &str, allowed: impl Fn(f64) -> bool, wish: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && allowed(number) => Ok(number),
        _ => Err(format!("must be a number {wish}")),
    }
}

fn positive_number(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0, "above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |n| n >= 0.0, "of at least 0")
}

fn probability(text: &str) -> Result<f64, String> {
    number(
        text,
        |n| (0.0..1.0).contains(&n),
        "of at least 0 and below 1",
    )
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0 && n <= 1.0, "above 0 and at most 1")
}
