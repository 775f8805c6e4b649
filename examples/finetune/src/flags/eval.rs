use std::path::PathBuf;

use clap::Args;

use super::model::AdaptedModelFlags;
use super::rows::RowFlags;
use super::values::positive;

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
