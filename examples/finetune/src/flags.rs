//! The command line as it is typed: every command, every flag, its default and its help.

use std::path::PathBuf;

use burn_finetune::{Learn, ScheduleKind};
use burn_paged::Budget;
use burn_qlora::{Checkpointing, Codebook};
use burn_qlora_llama::ComputeDtype;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceName;
use crate::known_models;

/// Fine-tune a LLaMA in 4 bits, on the device you have.
///
/// The base model's weights stay 4-bit the whole time; what is trained are small LoRA adapters
/// that Hugging Face peft and llama.cpp read. A model is a Hugging Face directory (plain or
/// bitsandbytes 4-bit), a .gguf file, or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.
#[derive(Debug, Parser)]
#[command(name = "finetune", version, after_help = EXAMPLES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  finetune train --model SmolLM2.gguf --data notes.jsonl --output run --epochs 3
  finetune plan --model SmolLM2.gguf --seq-len 4096 --checkpointing layer
  finetune plan --like qwen3-8b --device cuda --compute-dtype bf16
  finetune data --model SmolLM2.gguf --data notes.jsonl --show 5
  finetune eval --model SmolLM2.gguf --adapter run --data held-out.jsonl --exact-match
  finetune generate --model SmolLM2.gguf --adapter run --chat
  finetune quantize --model SmolLM2.gguf --output SmolLM2-nf4
  finetune export --model SmolLM2.gguf --adapter run --to hf --output SmolLM2-tuned";

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
    Train(Box<TrainFlags>),
    /// Tell what a training run would take in memory, before it loads anything
    #[command(
        override_usage = "finetune plan --model <MODEL>|--like <NAME> [OPTIONS OF TRAIN]",
        after_help = PLAN_HELP,
        mut_arg("model", |arg| arg.required_unless_present_any(["config", "like"]))
    )]
    Plan(Box<PlanFlags>),
    /// See what a data set becomes: rows with the part that is learnt, lengths, and what cannot be used and why
    #[command(
        override_usage = "finetune data --model <MODEL> --data <FILE> [OPTIONS OF TRAIN]",
        after_help = DATA_HELP,
        mut_arg("data", |arg| arg.required_unless_present("config"))
    )]
    Data(Box<DataFlags>),
    /// Measure loss and perplexity on a data set, and how many answers come out exactly right
    Eval(EvalFlags),
    /// Let the model write: one prompt, or a chat
    Generate(GenerateFlags),
    /// Write the model as a 4-bit checkpoint that transformers + bitsandbytes load
    Quantize(QuantizeFlags),
    /// Write the model with its adapter merged into it, for other programs
    #[command(after_help = EXPORT_HELP)]
    Export(Box<ExportFlags>),
}

const TRAIN_HELP: &str = "\
Data: rows with `messages` or `conversations`, `prompt` and `completion`, `instruction` and `output`, or `text`,
in JSON, CSV or Parquet; or a .txt file, which is tokenised whole and cut into rows. Of messages and completions
only the answers are trained on.

The output directory gets the adapter (adapter_config.json, adapter_model.safetensors) and the
checkpoints to resume from. Ctrl-C, SIGTERM and SIGHUP finish the step, save, and say how to go on; so
does a closed pipe behind the output.";

const PLAN_HELP: &str = "\
Takes the flags and config files of `train`. With --data the rows are as long as they are there, without
it as long as --seq-len allows. No weight is read, and with --like no file at all.";

const DATA_HELP: &str = "\
Takes the flags and config files of `train`, of which those of the data, --batch-size and --grad-accum count. It goes on
after a line that `train` would refuse and counts such lines by what is wrong. No weight is read.

The learnt part is green on a terminal, and elsewhere, or with NO_COLOR, between ⟦ and ⟧. Special tokens are shown, and
bytes that would steer the terminal are escaped.";

const EXPORT_HELP: &str = "\
Weights are read, merged and written one at a time, so that a model larger than memory can be exported. The output
appears when it is complete. An export to a directory that was interrupted goes on from its last complete file when the same
command is given again.

--base original merges into the checkpoint's own weights, which keeps what quantization takes from the model; --base
quantized into what they are after quantization, which is what the adapter was trained on. --check measures either.";

/// `finetune data`.
#[derive(Args, Debug)]
pub struct DataFlags {
    /// Print the first N rows
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Output")]
    pub show: usize,
    /// Print one JSON object as the last line
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// The run.
    #[command(flatten)]
    pub train: TrainFlags,
}

/// `finetune plan`.
#[derive(Args, Debug)]
pub struct PlanFlags {
    /// Plan for a well-known model instead of one that is here
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Model",
        value_parser = PossibleValuesParser::new(known_models::names()),
        conflicts_with_all = ["model", "data"]
    )]
    pub like: Option<String>,

    /// The run.
    #[command(flatten)]
    pub train: TrainFlags,
}

/// `finetune train` and `finetune plan`.
#[derive(Args, Debug)]
pub struct TrainFlags {
    /// TOML file with flags by their names (`batch-size = 8`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The model.
    #[command(flatten)]
    pub model: ModelFlags,

    /// Training data: a file (.jsonl, .json, .csv, .tsv, .parquet or .txt, also .gz or .zst), a folder of them, or
    /// hf://datasets/OWNER/NAME. Given several times, the rows of all are learnt
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub data: Vec<PathBuf>,
    /// How many times the rows of each --data are taken, comma-separated: 1,0.5 takes every row of the first and half
    /// the rows of the second, the same half in every epoch [default: 1 each]
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',', value_parser = positive_number, help_heading = "Data")]
    pub data_weights: Vec<f64>,
    /// Data to measure the loss on during and after training, named as --data is
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub eval_data: Vec<PathBuf>,
    /// Hold this share of --data's examples out from training, drawn by --seed, and measure the loss on them
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = part,
        help_heading = "Data",
        conflicts_with = "eval_data"
    )]
    pub eval_split: Option<f64>,
    /// The limits of its rows.
    #[command(flatten)]
    pub rows: RowFlags,
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
    /// Go on from the last checkpoint in the output directory. Model and data may have moved, but not changed; with a
    /// constant schedule there may be more steps
    #[arg(long, help_heading = "Output")]
    pub resume: bool,
    /// Append one JSON object a step: step, loss, grad_norm, lr, tokens, tokens_per_second,
    /// peak_rss_bytes, peak_device_bytes (not on Flex), optimizer_state_bytes, optimizer_resident_bytes,
    /// optimizer_bytes_moved
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub log_json: Option<PathBuf>,
    /// Measure the loss on --eval-data, or on the rows of --eval-split, every N steps (0: only at the end)
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Output")]
    pub eval_every: usize,
    /// Save a checkpoint every N steps (0: only at the end)
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Output")]
    pub save_every: usize,
    /// Save every step whose held-out loss is lower than all before it, and end with the adapter of the lowest; needs
    /// --eval-every
    #[arg(long, help_heading = "Output")]
    pub keep_best: bool,
    /// Stop when the held-out loss has not fallen for N evaluations in a row; needs --eval-every
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Output")]
    pub early_stop: Option<usize>,
    /// Keep the last N checkpoints only, and with --keep-best the best [default: all]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Output")]
    pub save_total: Option<usize>,

    /// Adapter of peft or mlx-lm to start from, in place of a fresh one: its folder, or a file in it
    #[arg(long, value_name = "DIR", help_heading = "Adapter", conflicts_with_all = ["init", "rank", "alpha", "dropout", "rslora", "target"])]
    pub init_adapter: Option<PathBuf>,
    /// How fresh adapters start
    #[arg(long, value_enum, default_value_t = Init::Zero, help_heading = "Adapter")]
    pub init: Init,
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
    #[arg(long, value_enum, default_value_t = ScheduleKind::Constant, help_heading = "Training")]
    pub schedule: ScheduleKind,
    /// Steps in which the learning rate rises from 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    pub warmup_steps: usize,
    /// The same as a share of all steps, rounded up
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = "Training", conflicts_with = "warmup_steps")]
    pub warmup_ratio: Option<f64>,
    /// What the learning rate falls to, by any schedule but a constant one [default: 0]
    #[arg(long, value_name = "LR", value_parser = not_negative, help_heading = "Training")]
    pub min_lr: Option<f64>,
    /// Times that the learning rate falls, with --schedule cosine-restarts [default: 2]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Training")]
    pub schedule_cycles: Option<usize>,
    /// Share of all steps, at the end, in which the learning rate falls, with --schedule wsd [default: 0.1]
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = "Training")]
    pub decay_ratio: Option<f64>,
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
    #[arg(long, value_enum, default_value_t = Checkpointing::None, help_heading = "Training")]
    pub checkpointing: Checkpointing,
    /// Seed of the adapters, the shuffling and the dropout
    #[arg(
        long,
        value_name = "N",
        default_value_t = 42,
        help_heading = "Training"
    )]
    pub seed: u64,
}

/// `finetune eval`.
#[derive(Args, Debug)]
#[command(override_usage = "finetune eval --model <MODEL> --data <FILE> [OPTIONS]")]
pub struct EvalFlags {
    /// TOML file with flags by their names (`seq-len = 512`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: AdaptedModelFlags,
    /// Data to measure on: a file (.jsonl, .json, .csv, .tsv, .parquet or .txt, also .gz or .zst), a folder of them, or
    /// hf://datasets/OWNER/NAME; several may be given
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Data",
        required_unless_present = "config"
    )]
    pub data: Vec<PathBuf>,
    /// The limits of its rows.
    #[command(flatten)]
    pub rows: RowFlags,
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
pub struct GenerateFlags {
    /// TOML file with flags by their names (`max-tokens = 64`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: AdaptedModelFlags,
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
    /// Begin the chat with this system prompt
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        conflicts_with = "prompt",
        allow_hyphen_values = true
    )]
    pub system: Option<String>,
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
    /// Choose among the tokens that are at least P times as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = at_most_one, help_heading = "Sampling")]
    pub min_p: Option<f64>,
    /// Make the tokens of the prompt and of the text so far less likely, by dividing their positive logits and multiplying
    /// their negative ones; 1 changes nothing. It acts at temperature 0 too
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive_number, help_heading = "Sampling")]
    pub repetition_penalty: f64,
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
pub struct QuantizeFlags {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Hugging Face directory, .gguf file or Hub id
    #[arg(long, value_name = "MODEL", required_unless_present = "config")]
    pub model: Option<String>,
    /// Directory for the checkpoint; must not exist or be empty
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    pub output: Option<PathBuf>,
    /// The format.
    #[command(flatten)]
    pub quant: QuantFlags,
}

/// `finetune export`.
#[derive(Args, Debug)]
#[command(
    override_usage = "finetune export --model <MODEL> [--adapter <DIR>] --to <FORMAT> --output <DIR|FILE> [OPTIONS]"
)]
pub struct ExportFlags {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: AdaptedModelFlags,
    /// Format to write
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        help_heading = "Output",
        required_unless_present = "config"
    )]
    pub to: Option<ExportTarget>,
    /// Where to write it; must not exist, or be an empty directory
    #[arg(
        long,
        value_name = "DIR|FILE",
        help_heading = "Output",
        required_unless_present = "config"
    )]
    pub output: Option<PathBuf>,
    /// Weights that the adapter is merged into
    #[arg(long, value_enum, default_value_t = ExportBase::Original, help_heading = "Output")]
    pub base: ExportBase,
    /// Type of the weights: f32, f16, bf16, and with --to gguf q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, q3_k or q2_k [default: the
    /// checkpoint's own, bf16 for a .gguf file]
    #[arg(long, value_name = "TYPE", help_heading = "Output")]
    pub dtype: Option<String>,
    /// Most bytes of weights in a file (5GB, 512MiB)
    #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = bytes, help_heading = "Output")]
    pub shard_size: u64,
    /// Print one JSON object as the last line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Data to measure the loss on, named as --data of `eval` is: of the adapter on its base, and of what was written
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub check: Vec<PathBuf>,
    /// The limits of its rows.
    #[command(flatten)]
    pub rows: RowFlags,
    /// Rows measured at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive, help_heading = "Data")]
    pub batch_size: usize,
}

/// A format that models are exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTarget {
    /// Hugging Face directory: safetensors with config, tokenizer and chat template
    Hf,
    /// File of llama.cpp, with everything that it needs to know
    Gguf,
    /// The adapter alone as a file for llama.cpp's --lora
    AdapterGguf,
}

/// The weights that an adapter is merged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportBase {
    /// The checkpoint's own
    Original,
    /// The same in the format of --quant, which the adapter was trained on
    Quantized,
}

/// The model, the device it runs on and the format of its weights.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Hugging Face directory (plain or bitsandbytes 4-bit), .gguf file or Hub id
    #[arg(long, value_name = "MODEL", required_unless_present = "config")]
    pub model: Option<String>,
    /// flex, wgpu, vulkan, metal, cuda, rocm or cpu, with a number if there are several (wgpu:1)
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::default())]
    pub device: DeviceName,
    /// What the model computes in; its 4-bit weights, the adapters and the optimizer do not depend on it
    #[arg(long, value_enum, default_value_t = ComputeDtype::F32)]
    pub compute_dtype: ComputeDtype,
    /// Chat template in place of the model's own: chatml, llama3, gemma, mistral, alpaca, or a file with Jinja
    #[arg(long, value_name = "NAME|FILE")]
    pub chat_template: Option<String>,
    /// The 4-bit format of its weights.
    #[command(flatten)]
    pub quant: QuantFlags,
}

/// A model that may have an adapter already.
#[derive(Args, Debug)]
pub struct AdaptedModelFlags {
    /// The model itself.
    #[command(flatten)]
    pub base: ModelFlags,
    /// Adapter to put on the model: of peft or mlx-lm, its folder or a file in it; of llama.cpp, its .gguf file
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
}

/// The limits of the rows of a data file.
#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
pub struct RowFlags {
    /// Most tokens in a row [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Cut rows that are longer than --seq-len, instead of refusing them; those that have nothing to learn then are left
    /// out and counted
    #[arg(long)]
    pub truncate: bool,
    /// The part of a row that is learnt. Of a conversation's turns those with "weight": 0 or "train": false never are; a
    /// text is learnt whole
    #[arg(long, value_enum, default_value_t = Learn::AllAnswers)]
    pub learn: Learn,
    /// Columns that have other names than those that are read, comma-separated: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = named_column)]
    pub columns: Vec<(String, String)>,
}

/// The 4-bit format of the base weights.
#[derive(Args, Debug)]
#[command(next_help_heading = "Quantization")]
pub struct QuantFlags {
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

/// A 4-bit codebook, or `none` for full precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantName(pub Option<Codebook>);

impl ValueEnum for QuantName {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(Some(Codebook::Nf4)),
            Self(Some(Codebook::Fp4)),
            Self(Some(Codebook::Int4)),
            Self(None),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self.0 {
            Some(codebook) => codebook.to_possible_value(),
            None => Some(PossibleValue::new("none").help("Keep full precision")),
        }
    }
}

/// A start of fresh adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Init {
    /// Adding nothing: A is random, B is zero
    Zero,
    /// As what 4 bits took from the weights, as far as the rank holds it (LoftQ); needs a model in 16 or 32 bits
    Loftq,
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

fn named_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => {
            Ok((name.trim().to_owned(), column.to_owned()))
        }
        _ => Err("must be a name and a column, as prompt=question".to_string()),
    }
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

fn number(text: &str, allowed: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && allowed(number) => Ok(number),
        _ => Err(format!("must be a number {range}")),
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

fn part(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0 && n < 1.0, "above 0 and below 1")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |n| n > 0.0 && n <= 1.0, "above 0 and at most 1")
}

fn at_most_one(text: &str) -> Result<f64, String> {
    number(text, |n| (0.0..=1.0).contains(&n), "from 0 to 1")
}
