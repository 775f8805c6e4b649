//! The ranks of a run: what they must have alike, and how the work is shared.

use anyhow::{Context, Error, Result};
use burn_finetune::{Dataset, Moment, Ranks, RunSettings, TrainConfig, Trainer, adapters_checksum};
use burn_qlora_llama::Decoder;

use crate::console::tell;

/// The adapters that a run starts from, as ranks compare them.
pub struct Adapters {
    /// Their checksum; `None` where the first rank's are sent to all.
    checksum: Option<u64>,
}

impl Adapters {
    /// Returns those of `model`.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn of(model: &Decoder, ranks: &Ranks) -> Result<Self> {
        let compared = ranks.are_many() && !ranks.send_adapters();
        let checksum = compared.then(|| adapters_checksum(model)).transpose()?;
        Ok(Self { checksum })
    }
}

/// Returns the moment at which the run was `started`, as recorded, or now, by the clock of the first rank.
///
/// # Errors
/// Ranks that cannot be reached.
pub fn started(ranks: &Ranks, started: Option<Moment>) -> Result<Moment> {
    let started = started.unwrap_or_else(Moment::now);
    let told = ranks.text_of_first(&started.to_string())?;
    let told = told.parse::<Moment>().map_err(Error::msg);
    told.context("the moment at which the first rank started")
}

/// Checks that all ranks have the same run before them.
///
/// # Errors
/// The first thing that is another on some rank, by the rank's number.
pub fn check(
    ranks: &Ranks,
    settings: &RunSettings,
    held_out: Option<&Dataset>,
    adapters: &Adapters,
) -> Result<()> {
    if !ranks.are_many() {
        return Ok(());
    }
    let mut parts = settings.digests();
    let held_out = held_out.map(Dataset::fingerprint).transpose()?;
    parts.push(("held-out data", held_out.unwrap_or_default()));
    parts.push((
        "start of the adapters",
        adapters.checksum.unwrap_or_default(),
    ));
    Ok(ranks.check_same(&parts)?)
}

/// Checks that all ranks go on from the same checkpoint.
///
/// # Errors
/// The first rank that does not, for one.
pub fn check_restored(trainer: &Trainer<Decoder>) -> Result<()> {
    let ranks = trainer.ranks();
    let adapters = Adapters::of(trainer.model(), ranks)?;
    Ok(ranks.check_same(&[
        ("checkpoint", trainer.steps_done() as u64),
        (
            "adapter in its checkpoint",
            adapters.checksum.unwrap_or_default(),
        ),
    ])?)
}

/// Says where ranks have less to do than others.
pub fn tell_of_shares(ranks: &Ranks, config: &TrainConfig) {
    let (size, batches) = (ranks.size(), config.grad_accum);
    if batches.is_multiple_of(size) {
        return;
    }
    let even = batches.next_multiple_of(size);
    let rest = batches % size;
    let shares = if batches < size {
        format!("{} of {size} ranks have nothing to do", size - batches)
    } else {
        format!("{rest} of {size} ranks have one more than the others, which wait for them")
    };
    tell!(
        "warning: a step has {batches} batch{} for its ranks, so {shares}: give --grad-accum {even}, or another number of ranks",
        if batches == 1 { "" } else { "es" },
    );
}
