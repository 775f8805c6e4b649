use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use burn_qlora::{Codebook, QuantConfig};

use super::model::{checked, quant_config, required_model};
use crate::flags::{QuantName, QuantizeFlags, QuantizeTarget};

/// `finetune quantize`.
#[derive(Debug)]
pub struct QuantizeRun {
    /// Path or Hub id of the model, as typed.
    pub model: String,
    /// The checkpoint's directory.
    pub output: PathBuf,
    /// A format that bitsandbytes has.
    pub config: QuantConfig,
    /// How it is laid out.
    pub layout: CheckpointLayout,
}

/// How a checkpoint in 4 bits is laid out.
#[derive(Clone, Copy, Debug)]
pub enum CheckpointLayout {
    /// In one file, with the adapter that makes up for what it loses.
    Bitsandbytes(Option<Loftq>),
    /// To be read from while it is used, in files of at most so many bytes.
    Native {
        /// Of tensors.
        shard_bytes: u64,
    },
}

/// The most bytes of tensors in a file that is read from while it is used: what an interrupted conversion does again.
const SHARD_BYTES: u64 = 1_000_000_000;

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
    /// No output directory, a format that bitsandbytes does not have, a block size that does not exist, no model, a flag of another
    /// layout.
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
        let loftq = flags.loftq_rank.map(|rank| Loftq {
            rank: rank.get(),
            rounds,
        });
        let layout = match flags.to {
            QuantizeTarget::Bitsandbytes => {
                ensure!(
                    flags.shard_size.is_none(),
                    "--shard-size: --to bitsandbytes writes one file; give --to native"
                );
                CheckpointLayout::Bitsandbytes(loftq)
            }
            QuantizeTarget::Native => {
                ensure!(
                    loftq.is_none(),
                    "--loftq-rank: an adapter comes with --to bitsandbytes; convert what that writes to native"
                );
                let shard_bytes = flags.shard_size.unwrap_or(SHARD_BYTES);
                CheckpointLayout::Native { shard_bytes }
            }
        };
        Ok(Self {
            layout,
            output,
            config: checked(quant_config(&flags.quant, codebook))?,
            model: required_model(flags.model)?,
        })
    }
}
