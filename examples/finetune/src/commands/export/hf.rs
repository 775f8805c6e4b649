use anyhow::{Result, bail};
use burn_qlora_llama::{
    FloatType, HfOptions, MergeReport, MergedCheckpoint, unfinished_export, write_hf,
};

use crate::progress;
use crate::run::{ExportRun, HfTarget};

/// Writes the directory.
///
/// # Errors
/// What reading and writing refuse.
pub fn write(
    merged: &MergedCheckpoint<'_>,
    target: &HfTarget,
    run: &ExportRun,
) -> Result<MergeReport> {
    let template = run.model.chat_template.as_ref();
    let dtype = match target.dtype {
        Some(dtype) => dtype,
        None => merged.stored_type()?.unwrap_or(FloatType::Bf16),
    };
    let options = HfOptions {
        dtype,
        shard_bytes: target.shard_bytes,
        chat_template: template.map(|template| template.source()).transpose()?,
    };
    let report = progress::counted("tensors", |count| {
        write_hf(merged, &run.output, &options, count)
    });
    match (report, unfinished_export(&run.output)) {
        (Ok(report), _) => Ok(report),
        (Err(error), None) => Err(error.into()),
        (Err(error), Some(folder)) => bail!(
            "{error}; what is complete is kept in {}: give the same command again to go on, or remove it",
            folder.display()
        ),
    }
}
