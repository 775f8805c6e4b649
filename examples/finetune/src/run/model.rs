use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::tensor::Device;
use burn_finetune::{ChatTemplate, builtin_template, builtin_template_names};
use burn_qlora::{Codebook, QuantConfig};
use burn_qlora_llama::{Checkpoint, ComputeDtype, KvCacheDtype, Weights};

use super::paging::WeightPaging;
use crate::device::DeviceName;
use crate::flags::{KvCacheFlags, ModelFlags, QuantFlags, QuantName};

/// The model to use, its device and the format of its weights.
#[derive(Debug)]
pub struct Model {
    /// Path or Hub id, as typed.
    pub name: String,
    /// The device by its name on the command line.
    pub device_name: DeviceName,
    /// The device, which can compute in `compute_dtype`.
    pub device: Device,
    /// The dtype of everything that is not in 4 bits.
    pub compute_dtype: ComputeDtype,
    /// The dtype of kept keys and values.
    pub kv_cache_dtype: KvCacheDtype,
    /// The format of the base weights.
    pub quantization: Quantization,
    /// The place of its packed weights.
    pub paging: WeightPaging,
    /// The chat template to use in place of its own.
    pub chat_template: Option<GivenTemplate>,
}

/// The format of the base weights.
#[derive(Clone, Copy, Debug)]
pub enum Quantization {
    /// Full precision.
    Dense,
    /// The blocks of the model's files.
    Keep,
    /// This 4-bit format.
    Format(QuantConfig),
    /// The model's own format if bitsandbytes brought it to 4 bits, else this one.
    StoredOr(QuantConfig),
    /// That, or the blocks of the model's file where there are kernels for all of them, else this format.
    KeepOr(QuantConfig),
}

/// What a model's linear layers are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Plain numbers, or blocks that no kernel multiplies.
    Otherwise,
    /// 4 bits of bitsandbytes.
    Bitsandbytes,
    /// Blocks of a GGUF file that there are kernels for, all that are in blocks.
    ServedBlocks,
}

impl Stored {
    /// Returns what `checkpoint` has.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        if checkpoint.is_bitsandbytes() {
            Self::Bitsandbytes
        } else if checkpoint.block_formats().is_empty() || checkpoint.unserved_blocks().is_some() {
            Self::Otherwise
        } else {
            Self::ServedBlocks
        }
    }
}

impl Model {
    /// Finds the device on this machine.
    ///
    /// # Errors
    /// A device that is not there or that cannot compute in `--compute-dtype`, and no model.
    pub fn resolve(flags: ModelFlags) -> Result<Self> {
        let device = flags.device.open()?;
        let compute_dtype = flags.compute_dtype;
        compute_dtype
            .settle(&device)
            .with_context(|| format!("--compute-dtype {compute_dtype}"))?;
        Ok(Self {
            paging: WeightPaging::resolve(&flags)?,
            name: required_model(flags.model)?,
            device_name: flags.device,
            device,
            compute_dtype,
            kv_cache_dtype: KvCacheDtype::Auto,
            quantization: Quantization::of(&flags.quant),
            chat_template: flags.chat_template.map(GivenTemplate),
        })
    }

    /// Keeps keys and values as the flags say.
    ///
    /// # Errors
    /// A dtype in which the device cannot keep them, or that takes no less than what is computed in.
    pub fn with_kv_cache(mut self, flags: &KvCacheFlags) -> Result<Self> {
        let dtype = flags.kv_cache_dtype;
        dtype
            .check(self.compute_dtype, &self.device)
            .context("--kv-cache-dtype")?;
        self.kv_cache_dtype = dtype;
        Ok(self)
    }
}

/// A chat template by the name of a well-known one, or by its file.
#[derive(Clone, Debug)]
pub struct GivenTemplate(String);

impl GivenTemplate {
    /// Returns the template's source.
    ///
    /// # Errors
    /// Neither a known name nor a file that can be read.
    pub fn source(&self) -> Result<String> {
        if let Some(source) = builtin_template(&self.0) {
            return Ok(source.to_owned());
        }
        // A template that is longer is refused, and a device file would have no end.
        let most = ChatTemplate::MOST_SOURCE as u64 + 1;
        let read = || -> std::io::Result<String> {
            let mut source = String::new();
            File::open(&self.0)?
                .take(most)
                .read_to_string(&mut source)?;
            Ok(source)
        };
        read().with_context(|| {
            let names: Vec<_> = builtin_template_names().collect();
            format!(
                "{self}: neither a file that can be read nor one of {}",
                names.join(", ")
            )
        })
    }
}

impl GivenTemplate {
    /// Returns its file, where it is no well-known one.
    pub fn file(&self) -> Option<PathBuf> {
        builtin_template(&self.0)
            .is_none()
            .then(|| PathBuf::from(&self.0))
    }
}

impl Display for GivenTemplate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "--chat-template {}", self.0)
    }
}

/// Returns the name of the model, which only a config file can leave out.
pub(super) fn required_model(name: Option<String>) -> Result<String> {
    name.context("no model is given; name one with --model")
}

impl Quantization {
    fn of(flags: &QuantFlags) -> Self {
        match flags.quant {
            None => {
                let config = quant_config(flags, Codebook::default());
                // Settings of a 4-bit format ask for one.
                match flags.block_size.is_some() || flags.no_double_quant {
                    true => Self::StoredOr(config),
                    false => Self::KeepOr(config),
                }
            }
            Some(QuantName::Codebook(codebook)) => Self::Format(quant_config(flags, codebook)),
            Some(QuantName::Keep) => Self::Keep,
            Some(QuantName::None) => Self::Dense,
        }
    }

    /// Returns how the weights of a checkpoint are loaded. Those that an adapter was trained on are `trained`, if that is known:
    /// what was quantized then is so again, where nothing else is asked for.
    ///
    /// # Errors
    /// A block size that the format does not have.
    pub fn weights(self, stored: Stored, trained: Option<Weights>) -> Result<Weights> {
        match (self, stored) {
            (Self::Dense, _) => Ok(Weights::Dense),
            (Self::Keep | Self::StoredOr(_) | Self::KeepOr(_), Stored::Bitsandbytes) => {
                Ok(Weights::AsStored)
            }
            (Self::KeepOr(_), Stored::ServedBlocks) => Ok(match trained {
                Some(quantized @ Weights::Quantized(_)) => quantized,
                _ => Weights::Kept,
            }),
            (Self::Keep, _) => Ok(Weights::Kept),
            (Self::Format(config) | Self::StoredOr(config) | Self::KeepOr(config), _) => {
                Ok(Weights::Quantized(checked(config)?))
            }
        }
    }

    /// Returns whether the form that an adapter was trained on decides.
    pub fn is_left_open(self) -> bool {
        matches!(self, Self::KeepOr(_))
    }

    /// Returns it for files that are to be quantized: without leave to keep their blocks.
    pub fn quantized(self) -> Self {
        match self {
            Self::KeepOr(config) => Self::StoredOr(config),
            other => other,
        }
    }
}

/// Returns the format of `codebook` with the other flags' settings.
pub(super) fn quant_config(flags: &QuantFlags, codebook: Codebook) -> QuantConfig {
    QuantConfig {
        codebook,
        block_size: flags
            .block_size
            .unwrap_or(QuantConfig::default().block_size),
        double_quant: !flags.no_double_quant,
    }
}

/// Returns `config` if its block size exists.
pub(super) fn checked(config: QuantConfig) -> Result<QuantConfig> {
    config.validate().context("--block-size")?;
    Ok(config)
}
