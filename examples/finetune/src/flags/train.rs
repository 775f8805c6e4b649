use std::ffi::OsString;
use std::path::PathBuf;

use burn_finetune::ScheduleKind;
use burn_paged::Budget;
use burn_qlora::Checkpointing;
use clap::{Args, ValueEnum};

use super::layers::LayerFlags;
use super::model::ModelFlags;
use super::objective::ObjectiveFlags;
#[cfg(feature = "mpi")]
use super::ranks::RankFlags;
use super::rows::RowFlags;
use super::tokens::TokenFlags;
use super::values::{bytes, not_negative, part, positive, positive_number, probability, share};

pub(super) const TRAIN_HELP: &str = "\
Data: rows with `messages` or `conversations`, `prompt` and `completion`, `instruction` and `output`, or `text`,
in JSON, CSV or Parquet; or a .txt file, which is tokenised whole and cut into rows. Of messages and completions
only the answers are trained on. --objective dpo and orpo take rows with `chosen` and `rejected`, kto rows with
`prompt`, `completion` and `label`.

The output directory gets the adapter (adapter_config.json, adapter_model.safetensors) and the
checkpoints to resume from. Ctrl-C, SIGTERM and SIGHUP finish the step, save, and say how to go on; so
does a closed pipe behind the output.";

/// `finetune train` and `finetune plan`.
#[derive(Args, Debug)]
pub struct TrainFlags {
    /// What stands behind `finetune train`, with the flags of the config file.
    #[arg(skip)]
    pub arguments: Vec<OsString>,

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
    /// Let shuffled rows of like lengths come together, which saves padding; the longest row comes first
    #[arg(long, help_heading = "Data", conflicts_with = "no_shuffle")]
    pub group_by_length: bool,

    /// What is learnt.
    #[command(flatten)]
    pub objective: ObjectiveFlags,

    /// Directory for the adapter and the checkpoints
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Go on from the last checkpoint in the output directory. Model and data may have moved, but not changed; with a
    /// constant schedule there may be more steps
    #[arg(long, help_heading = "Output")]
    pub resume: bool,
    /// Append one JSON object a step: step, loss, grad_norm, lr, tokens, tokens_per_second,
    /// peak_rss_bytes, peak_device_bytes (not on Flex), optimizer_state_bytes, optimizer_resident_bytes,
    /// optimizer_bytes_moved, and of preferences rewards/chosen, rewards/rejected, rewards/margins and others
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub log_json: Option<PathBuf>,
    /// Write event files for TensorBoard: loss, learning rate, gradient norm, tokens a second, memory, held-out loss, samples
    /// [default DIR: tensorboard in the output directory]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub tensorboard: Option<Option<PathBuf>>,
    /// Let the model answer the prompts of FILE greedily at the start, at every evaluation and at the end, and write that
    /// into --log-json and the report: a .txt file with a prompt a line, or rows of data, whose answers may be missing.
    /// Without data to evaluate, --eval-every says how often all the same
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub sample_prompts: Option<PathBuf>,
    /// Most tokens of an answer to a sample prompt [default: 64]
    #[arg(long, value_name = "N", value_parser = positive, requires = "sample_prompts", help_heading = "Output")]
    pub sample_tokens: Option<usize>,
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
    #[arg(long, value_name = "DIR", help_heading = "Adapter", conflicts_with_all = ["init", "rank", "alpha", "dropout", "rslora", "target", "exclude", "layers", "rank_pattern", "alpha_pattern", "add_tokens", "train_tokens"])]
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
    /// The layers that get one.
    #[command(flatten)]
    pub layers: LayerFlags,
    /// Tokens whose rows are trained beside.
    #[command(flatten)]
    pub tokens: TokenFlags,

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
    /// How many times the learning rate that of the factors B is (LoRA+; 16 is a common choice)
    #[arg(long, value_name = "RATIO", default_value = "1", value_parser = positive_number, help_heading = "Training")]
    pub lora_plus_ratio: f64,
    /// Add noise of at most ALPHA / sqrt(tokens * width) to the embeddings in training (NEFTune; 5 is a common choice, 0: none)
    #[arg(long, value_name = "ALPHA", default_value = "0", value_parser = not_negative, help_heading = "Training")]
    pub neftune_alpha: f64,
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

    /// Processes that train together.
    #[cfg(feature = "mpi")]
    #[command(flatten)]
    pub ranks: RankFlags,
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
    /// The sign of a momentum (4 bytes for each parameter); wants a lower learning rate, a third to a tenth of AdamW's
    Lion,
    /// A momentum, orthogonalised (4 bytes for each parameter); wants a learning rate of its own, about 0.02
    Muon,
    /// Second moments by rows and columns alone (next to nothing); the learning rate is the schedule's
    Adafactor,
}
