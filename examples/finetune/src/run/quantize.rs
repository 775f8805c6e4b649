use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn_qlora::{Codebook, QuantConfig};

use super::model::{checked, quant_config, required_model};
use crate::flags::{QuantName, QuantizeFlags};

/// `finetune quantize`.
#[derive(Debug)]
pub struct QuantizeRun {
    /// Path or Hub id of the model, as typed.
    pub model: String,
    /// The checkpoint's directory.
    pub output: PathBuf,
    /// A format that bitsandbytes has.
    pub config: QuantConfig,
    /// The adapter that makes up for what it loses.
    pub loftq: Option<Loftq>,
}

/// An adapter that is fitted to the weights, and they to it.
#[derive(Clone, Copy, Debug)]
pub struct Loftq {
    /// Its rank.
    pub rank: usize,
    /// How often.
    pub rounds: NonZeroUsize,
}

impl QuantizeRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No output directory, a format that bitsandbytes does not have, a block size that does not exist, no model.
    pub fn resolve(flags: QuantizeFlags) -> Result<Self> {
        let output = flags
            .output
            .context("no output is given; name a directory with --output")?;
        let codebook = match flags.quant.quant {
            None => Codebook::default(),
            Some(QuantName::Codebook(codebook @ (Codebook::Nf4 | Codebook::Fp4))) => codebook,
            Some(other) => {
                let name = other.name();
                bail!("--quant {name}: bitsandbytes has no such 4-bit format; use nf4 or fp4")
            }
        };
        let rounds = flags.loftq_iterations;
        Ok(Self {
            loftq: flags.loftq_rank.map(|rank| Loftq {
                rank: rank.get(),
                rounds,
            }),
            output,
            config: checked(quant_config(&flags.quant, codebook))?,
            model: required_model(flags.model)?,
        })
    }
}
