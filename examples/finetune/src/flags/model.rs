use std::path::PathBuf;

use burn_paged::Budget;
use burn_qlora::Codebook;
use burn_qlora_llama::{ComputeDtype, KvCacheDtype};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::device::DeviceName;

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
    /// How much of the packed weights stays on the device: resident, auto (as much as fits), bytes (0, 2GiB) or a share (50%); the
    /// rest is read again at every use. Changes no result [default: resident]
    #[arg(long, value_name = "BUDGET", help_heading = "Model")]
    pub weights_budget: Option<Budget>,
    /// Folder of the file that weights are read from again which the model's own files have in another form [default: the system's
    /// folder for temporary files; on a device with memory of its own, this machine's memory holds all weights instead]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub page_dir: Option<PathBuf>,
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

/// The keys and values of a model that writes or answers.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct KvCacheFlags {
    /// What the keys and values of tokens already seen are kept in: of a model that computes in f32, half of the memory in bf16 or f16
    #[arg(long, value_enum, default_value_t = KvCacheDtype::Auto)]
    pub kv_cache_dtype: KvCacheDtype,
}

/// The 4-bit format of the base weights.
#[derive(Args, Debug)]
#[command(next_help_heading = "Quantization")]
pub struct QuantFlags {
    /// Format of the base weights [default: keep for 4-bit models and GGUF files in blocks, else nf4; what is written is nf4]
    #[arg(long, value_enum)]
    pub quant: Option<QuantName>,
    /// Weights that share a scale: 32 to 4096, a power of two [default: 64]
    #[arg(long, value_name = "N")]
    pub block_size: Option<usize>,
    /// Keep the scales in f32 (4.5 bits a weight in place of 4.13)
    #[arg(long)]
    pub no_double_quant: bool,
}

/// A format of the base weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantName {
    /// 4 bits of this codebook.
    Codebook(Codebook),
    /// The blocks that the model's file has.
    Keep,
    /// Full precision.
    None,
}

impl QuantName {
    /// Returns the name as it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Codebook(codebook) => codebook.name(),
            Self::Keep => "keep",
            Self::None => "none",
        }
    }
}

impl ValueEnum for QuantName {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Codebook(Codebook::Nf4),
            Self::Codebook(Codebook::Fp4),
            Self::Codebook(Codebook::Int4),
            Self::Keep,
            Self::None,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Codebook(codebook) => codebook.to_possible_value(),
            Self::Keep => Some(PossibleValue::new("keep").help(
                "The file's own blocks, bit for bit: those of a GGUF file, or bitsandbytes' 4 bits",
            )),
            Self::None => Some(PossibleValue::new("none").help("Keep full precision")),
        }
    }
}
