use std::path::PathBuf;

use clap::Args;

use super::model::{AdaptedModelFlags, KvCacheFlags};
use super::objective::ObjectiveFlags;
use super::rows::RowFlags;
use super::values::positive;

pub const EVAL_HELP: &str = "\
Examples:
  finetune eval --model M --adapter run --data held-out.jsonl --exact-match --batch-size 16
  finetune eval --model M --adapter run --data held-out.jsonl --generate answers.jsonl
  finetune eval --model M --adapter run --data pairs.jsonl --objective dpo
  finetune eval --model M --adapter run --data mmlu/test.jsonl --choices --shots 5 --shots-data mmlu/dev.jsonl";

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
    /// What it keeps of the tokens already seen.
    #[command(flatten)]
    pub kv_cache: KvCacheFlags,
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
    #[arg(long, help_heading = "Answers")]
    pub exact_match: bool,
    /// Also let the model answer each prompt (greedily) and write the answers to FILE, a JSON object with `prompt`, `expected`
    /// and `answer` a line
    #[arg(long, value_name = "FILE", help_heading = "Answers")]
    pub generate: Option<PathBuf>,
    /// Most tokens of an answer that --generate writes [default: 256]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Answers")]
    pub max_tokens: Option<usize>,
    /// Measure how often the likeliest of several choices is the right one, as lm-evaluation-harness does: rows of MMLU, ARC or
    /// HellaSwag, or with `prompt`, `choices` and `answer`
    #[arg(long, help_heading = "Choices")]
    pub choices: bool,
    /// Of --choices: put N rows of --shots-data before every question, with their answers: of MMLU the first of its subject, of
    /// ARC and HellaSwag those that lm-evaluation-harness draws, else the first
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Choices")]
    pub shots: Option<usize>,
    /// Of --choices: the rows to take examples from, say the dev split of MMLU
    #[arg(long, value_name = "FILE", help_heading = "Choices")]
    pub shots_data: Vec<PathBuf>,
    /// What is measured of the rows, where it is not their likelihood.
    #[command(flatten)]
    pub objective: ObjectiveFlags,
    /// Print one JSON object as the last line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
