use anyhow::Result;
use burn_qlora_llama::{FloatType, HfOptions, MergeReport, MergedCheckpoint, write_hf};

use crate::commands::interrupted;
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
    report.map_err(|error| interrupted(error, &run.output))
}
