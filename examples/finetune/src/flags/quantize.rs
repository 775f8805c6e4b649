use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::model::QuantFlags;
use super::values::bytes;

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
    /// How the checkpoint is laid out; transformers and bitsandbytes load both
    #[arg(long, value_enum, value_name = "FORM", default_value_t = QuantizeTarget::Bitsandbytes)]
    pub to: QuantizeTarget,
    /// With --to native: most bytes of weights in a file [default: 1GB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub shard_size: Option<u64>,
    /// Also write an adapter of this rank that makes up for what 4 bits take (LoftQ), to loftq_init in the directory
    #[arg(long, value_name = "R")]
    pub loftq_rank: Option<NonZeroUsize>,
    /// How often weights and adapter are fitted to each other
    #[arg(long, value_name = "N", default_value = "1", requires = "loftq_rank")]
    pub loftq_iterations: NonZeroUsize,
    /// The format.
    #[command(flatten)]
    pub quant: QuantFlags,
}

/// The layout of a checkpoint in 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantizeTarget {
    /// One file
    Bitsandbytes,
    /// Files to read weights from while they are used: in the order of their use, each on pages of its own, with checksums
    Native,
}
