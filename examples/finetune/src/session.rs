//! An opened model: its files are checked, its tokenizer is ready; its weights follow on demand.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_finetune::{ChatTemplate, Dataset, RowEncoder};
use burn_qlora::{Codebook, QuantConfig};
use burn_qlora_llama::{Checkpoint, Llama, LoadOptions, SpecialTokens, Weights};
use tokenizers::Tokenizer;

use crate::cli::{ModelArgs, QuantArgs, QuantName};
use crate::model::LlamaLm;
use crate::{progress, source};

/// Tokens in a row unless `--seq-len` says otherwise.
const SEQ_LEN: usize = 512;

/// A model on disk with all that is needed to turn text into tokens and back.
pub struct Session {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens.
    pub special: SpecialTokens,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
}

/// How the rows of a data file are made.
#[derive(Clone, Copy, Debug)]
pub struct RowLimits {
    /// Most tokens in a row; `None` for the default.
    pub seq_len: Option<usize>,
    /// Whether longer rows are cut instead of refused.
    pub truncate: bool,
}

impl Session {
    /// Opens what `--model` names, fetching it if need be.
    ///
    /// # Errors
    /// A model that cannot be found, read or used, or that lacks a tokenizer.
    pub fn open(model: Option<&str>) -> Result<Self> {
        let path = source::resolve(model.context("no model is given; name one with --model")?)?;
        let checkpoint = Checkpoint::open(path)?;
        let special = checkpoint.special_tokens()?;
        let template = match checkpoint.chat_template()? {
            Some(source) => Some(
                ChatTemplate::new(&source, special_variables(&special))
                    .with_context(|| format!("model {}", checkpoint.path().display()))?,
            ),
            None => None,
        };
        Ok(Self {
            tokenizer: checkpoint.tokenizer()?,
            checkpoint,
            special,
            template,
        })
    }

    /// The longest row the model can take.
    pub fn context_len(&self) -> usize {
        self.checkpoint.config().max_position_embeddings
    }

    /// The length rows are held to.
    ///
    /// # Errors
    /// A `--seq-len` beyond the model's context.
    pub fn seq_len(&self, limits: RowLimits) -> Result<usize> {
        let context = self.context_len();
        let seq_len = limits.seq_len.unwrap_or(SEQ_LEN.min(context));
        ensure!(
            seq_len <= context,
            "--seq-len {seq_len} is more than the model's context of {context} tokens; \
             use at most {context}"
        );
        Ok(seq_len)
    }

    /// Reads a data file into rows of tokens.
    ///
    /// # Errors
    /// A file that cannot be read or has a line that cannot be used, by its number.
    pub fn dataset(&self, path: &Path, limits: RowLimits) -> Result<Dataset> {
        let encoder = RowEncoder {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            eos: self.special.eos.as_ref().map(|token| token.id),
            max_len: self.seq_len(limits)?,
            truncate: limits.truncate,
        };
        Ok(Dataset::read(path, &encoder)?)
    }

    /// [`dataset`](Self::dataset), its examples put together in rows if `packing`.
    ///
    /// # Errors
    /// As for that.
    pub fn training_data(&self, path: &Path, limits: RowLimits, packing: bool) -> Result<Dataset> {
        let data = self.dataset(path, limits)?;
        Ok(match packing {
            true => data.packed(self.seq_len(limits)?),
            false => data,
        })
    }

    /// What becomes of the weights when they are loaded.
    ///
    /// # Errors
    /// A block size that the format does not know.
    pub fn weights(&self, quant: &QuantArgs) -> Result<Weights> {
        Ok(match quant.quant {
            Some(QuantName::None) => Weights::Dense,
            None if self.checkpoint.is_bitsandbytes() => Weights::AsStored,
            _ => Weights::Quantized(quant_config(quant)?),
        })
    }

    /// The 4-bit format the weights will have when they are loaded, `None` for none. Of a model that is 4-bit
    /// already one matrix is read.
    ///
    /// # Errors
    /// As [`weights`](Self::weights), and a matrix that cannot be read.
    pub fn quantization(&self, quant: &QuantArgs) -> Result<Option<QuantConfig>> {
        Ok(match self.weights(quant)? {
            Weights::Quantized(config) => Some(config),
            Weights::Dense | Weights::Trainable => None,
            Weights::AsStored => self.checkpoint.stored_quantization()?,
        })
    }

    /// Loads the weights onto a device.
    ///
    /// # Errors
    /// Weights that are missing, damaged or cannot be had in the wanted format or dtype.
    pub fn load(&self, model: &ModelArgs, quant: &QuantArgs, device: &Device) -> Result<LlamaLm> {
        let options =
            LoadOptions::new(self.weights(quant)?).with_compute_dtype(model.compute_dtype.into());
        let spinner = progress::spinner(format!("load {}", self.checkpoint.path().display()));
        let llama = Llama::load(&self.checkpoint, &options, device)?;
        spinner.finish_and_clear();
        Ok(LlamaLm { llama })
    }

    /// Loads the weights and puts an adapter on them, for everything but training.
    ///
    /// # Errors
    /// As [`load`](Self::load), and an adapter that is damaged or for another model.
    pub fn load_with_adapter(
        &self,
        model: &ModelArgs,
        quant: &QuantArgs,
        adapter: Option<&Path>,
        device: &Device,
    ) -> Result<LlamaLm> {
        let mut model = self.load(model, quant, device)?;
        if let Some(adapter) = adapter {
            burn_qlora::peft::load(&mut model, adapter)?;
        }
        Ok(model)
    }
}

/// The 4-bit format that the flags ask for.
///
/// # Errors
/// A block size that the format does not know.
pub fn quant_config(quant: &QuantArgs) -> Result<QuantConfig> {
    let config = QuantConfig {
        codebook: match quant.quant {
            Some(QuantName::Fp4) => Codebook::Fp4,
            Some(QuantName::Int4) => Codebook::Int4,
            Some(QuantName::Nf4 | QuantName::None) | None => Codebook::Nf4,
        },
        block_size: quant.block_size,
        double_quant: !quant.no_double_quant,
    };
    config.validate().context("--block-size")?;
    Ok(config)
}

/// The special tokens as chat templates know them.
fn special_variables(special: &SpecialTokens) -> BTreeMap<String, String> {
    [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("unk_token", &special.unk),
        ("pad_token", &special.pad),
    ]
    .into_iter()
    .filter_map(|(name, token)| Some((name.to_string(), token.as_ref()?.text.clone())))
    .collect()
}
