//! `finetune export`: the model with its adapter merged, in the files of other programs.
//!
//! A format has a variant of `flags::ExportTarget`, one of `run::Target` with its settings, and a module here whose `write` makes
//! it of a merged checkpoint.

/// An adapter for llama.cpp.
mod adapter_gguf;
/// The loss before and after.
mod check;
/// A file of llama.cpp.
mod gguf;
/// A Hugging Face directory.
mod hf;
/// What merging has changed, as it is told.
mod told;

use anyhow::Result;
use burn_qlora_llama::{MergeBase, MergedCheckpoint, Weights};

use crate::console::say;
use crate::opened_model::{MoreTokens, open_adapter};
use crate::run::{ExportRun, Stored, Target};
use crate::source;

/// Writes the model and tells what merging has changed, and what it costs where that is to be checked.
///
/// # Errors
/// A model, an adapter or data that cannot be read or do not fit each other, an output that is taken or cannot be written.
pub fn run(run: &ExportRun) -> Result<()> {
    let mut checkpoint = source::open(&run.model.name)?;
    MoreTokens::OfAdapter(run.adapter.as_deref()).add_to(&mut checkpoint)?;
    let adapter = run
        .adapter
        .as_deref()
        .map(|path| open_adapter(path, &checkpoint))
        .transpose()?;
    let base = match run
        .model
        .quantization
        .weights(Stored::of(&checkpoint), None)?
    {
        Weights::Quantized(config) => MergeBase::Quantized(config),
        Weights::AsStored | Weights::Kept | Weights::Dense | Weights::Trainable => {
            MergeBase::Original
        }
    };
    let merged = MergedCheckpoint::new(&checkpoint, adapter.as_ref(), base)?;
    // Before anything is written, for its data may be refused.
    let check = run.check.as_ref();
    let check = check
        .map(|check| check::Prepared::new(run, check))
        .transpose()?;
    let report = match &run.target {
        Target::Hf(target) => hf::write(&merged, target, run)?,
        Target::Gguf(weights) => gguf::write(&merged, *weights, run)?,
        Target::AdapterGguf => return adapter_gguf::write(&merged, run),
    };
    say!("{} holds {}", run.output.display(), told::of_what(run));
    told::say(&report);
    let losses = check.map(|check| check.measure()).transpose()?;
    if run.json {
        say!("{}", told::json(&report, losses.as_ref())?);
    }
    Ok(())
}
