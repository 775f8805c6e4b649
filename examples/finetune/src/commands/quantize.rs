//! `finetune quantize`: a 4-bit checkpoint for transformers and bitsandbytes.

use anyhow::Result;
use burn_qlora_llama::write_bitsandbytes;

use crate::console::say;
use crate::run::QuantizeRun;
use crate::{progress, source};

/// Writes the checkpoint; the directory appears when it is complete.
///
/// # Errors
/// A model that cannot be read, an output that is taken or cannot be written.
pub fn run(run: &QuantizeRun) -> Result<()> {
    let QuantizeRun {
        model,
        output,
        config,
    } = run;
    let checkpoint = source::open(model)?;
    progress::counted("tensors", |count| {
        write_bitsandbytes(&checkpoint, output, *config, count)
    })?;
    say!("{} holds {model} in {}", output.display(), config.codebook);
    Ok(())
}
