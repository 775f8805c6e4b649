//! The command line as it is typed: every command, every flag, its default and its help, a command a file.

/// `finetune data`.
mod data;
/// `finetune eval`.
mod eval;
/// `finetune export`.
mod export;
/// `finetune generate`.
mod generate;
/// The layers that get an adapter.
mod layers;
/// The model, its adapter, its device and the format of its weights.
mod model;
/// What is learnt.
mod objective;
/// `finetune plan`.
mod plan;
/// `finetune quantize`.
mod quantize;
/// Processes that train together.
#[cfg(feature = "mpi")]
mod ranks;
/// `finetune report`.
mod report;
/// The limits of the rows of a data file.
mod rows;
/// `finetune serve`.
mod serve;
/// Tokens whose rows are trained.
mod tokens;
/// `finetune train`.
mod train;
/// The values of flags, as they are typed.
mod values;
/// `finetune verify`.
mod verify;

pub use data::DataFlags;
pub use eval::EvalFlags;
pub use export::{ExportBase, ExportFlags, ExportTarget};
pub use generate::GenerateFlags;
pub use model::{KvCacheFlags, ModelFlags, QuantFlags, QuantName};
pub use objective::{ObjectiveFlags, ObjectiveName};
pub use plan::PlanFlags;
pub use quantize::{QuantizeFlags, QuantizeTarget};
#[cfg(feature = "mpi")]
pub use ranks::DeviceIndex;
pub use report::ReportFlags;
pub use rows::RowFlags;
pub use serve::ServeFlags;
pub use tokens::TokenFlags;
pub use train::{Init, OptimizerName, TrainFlags};
pub use verify::VerifyFlags;

use clap::{Parser, Subcommand};

use data::DATA_HELP;
use eval::EVAL_HELP;
use export::EXPORT_HELP;
use plan::PLAN_HELP;
use report::REPORT_HELP;
use serve::SERVE_HELP;
use train::TRAIN_HELP;
use verify::VERIFY_HELP;

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
  finetune train --model SmolLM2.gguf --data pairs.jsonl --output run --objective dpo --lr 2e-5
  finetune plan --model SmolLM2.gguf --seq-len 4096 --checkpointing layer
  finetune plan --like qwen3-8b --device cuda --compute-dtype bf16
  finetune data --model SmolLM2.gguf --data notes.jsonl --show 5
  finetune report run
  finetune verify run --steps 10
  finetune eval --model SmolLM2.gguf --adapter run --data held-out.jsonl --exact-match
  finetune generate --model SmolLM2.gguf --adapter run --chat
  finetune serve --model SmolLM2.gguf --adapter notes=run
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
    /// Write a run on one page: curves, samples, memory, configuration
    #[command(
        override_usage = "finetune report <RUN> [OPTIONS]",
        after_help = REPORT_HELP,
        mut_arg("run", |arg| arg.required_unless_present("config"))
    )]
    Report(ReportFlags),
    /// Take the first steps of a run again, and tell whether files and losses are the same
    #[command(
        override_usage = "finetune verify <RUN> [OPTIONS]",
        after_help = VERIFY_HELP,
        mut_arg("run", |arg| arg.required_unless_present("config"))
    )]
    Verify(VerifyFlags),
    /// Measure what a model has learnt: the loss on a data set, its own answers, preferences, questions with choices
    #[command(
        after_help = EVAL_HELP,
        mut_arg("objective", |arg| arg.help("What is measured of the rows"))
    )]
    Eval(Box<EvalFlags>),
    /// Let the model write: one prompt, or a chat
    Generate(GenerateFlags),
    /// Answer requests over HTTP as OpenAI's API does, with adapters by their names, and a chat page
    #[command(after_help = SERVE_HELP)]
    Serve(ServeFlags),
    /// Write the model as a 4-bit checkpoint that transformers + bitsandbytes load
    Quantize(QuantizeFlags),
    /// Write the model with its adapter merged into it, for other programs
    #[command(after_help = EXPORT_HELP, visible_alias = "merge")]
    Export(Box<ExportFlags>),
}
