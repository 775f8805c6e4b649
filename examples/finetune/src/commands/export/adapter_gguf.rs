use std::path::Path;

use anyhow::Result;
use burn_qlora_llama::{MergedCheckpoint, write_gguf_adapter};

use crate::console::say;
use crate::progress;
use crate::run::ExportRun;

/// Writes the adapter.
///
/// # Errors
/// What reading and writing refuse.
pub fn write(merged: &MergedCheckpoint<'_>, run: &ExportRun) -> Result<()> {
    progress::counted("layers", |count| {
        write_gguf_adapter(merged, &run.output, count)
    })?;
    let adapter = run.adapter.as_deref().unwrap_or(Path::new("the adapter"));
    say!(
        "{} holds {} for {}",
        run.output.display(),
        adapter.display(),
        run.model.name
    );
    Ok(())
}
