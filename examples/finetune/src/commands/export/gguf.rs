use anyhow::Result;
use burn_qlora_llama::{
    FloatType, GgufExport, GgufOptions, GgufType, MergeReport, MergedCheckpoint,
};

use crate::console::tell;
use crate::progress;
use crate::run::ExportRun;

/// Writes the file, once what llama.cpp will do otherwise is told.
///
/// # Errors
/// What reading and writing refuse.
pub fn write(
    merged: &MergedCheckpoint<'_>,
    weights: Option<GgufType>,
    run: &ExportRun,
) -> Result<MergeReport> {
    let template = run.model.chat_template.as_ref();
    let weights = match weights {
        Some(weights) => weights,
        None => match merged.stored_type()? {
            Some(FloatType::F32) => GgufType::F32,
            Some(FloatType::F16) => GgufType::F16,
            Some(FloatType::Bf16) | None => GgufType::Bf16,
        },
    };
    let options = GgufOptions {
        weights,
        chat_template: template.map(|template| template.source()).transpose()?,
        lossy: false,
    };
    let export = GgufExport::begin(merged, &run.output, &options)?;
    for warning in export.warnings() {
        tell!("warning: {}: {warning}", run.output.display());
    }
    Ok(progress::counted("tensors", |count| export.write(count))?)
}
