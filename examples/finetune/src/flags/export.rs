use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::model::AdaptedModelFlags;
use super::rows::RowFlags;
use super::values::{bytes, positive};

pub(super) const EXPORT_HELP: &str = "\
Weights are read, merged and written one at a time, so that a model larger than memory can be exported. The output
appears when it is complete. An export to a directory that was interrupted goes on from its last complete file when the same
command is given again.

--base original merges into the checkpoint's own weights, which keeps what quantization takes from the model; --base
quantized into what they are after quantization, which is what the adapter was trained on. --check measures either.";

/// `finetune export`.
#[derive(Args, Debug)]
#[command(
    override_usage = "finetune export --model <MODEL> [--adapter <DIR>] --output <DIR|FILE> [OPTIONS]"
)]
pub struct ExportFlags {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: AdaptedModelFlags,
    /// Format to write [default: gguf for an --output that ends in .gguf, else hf]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Output")]
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
