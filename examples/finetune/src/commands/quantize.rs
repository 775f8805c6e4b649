//! `finetune quantize`: a 4-bit checkpoint for transformers and bitsandbytes.

use anyhow::{Context, Result, bail};
use burn_qlora_llama::{Checkpoint, write_bitsandbytes};

use crate::cli::{QuantName, QuantizeArgs};
use crate::session::quant_config;
use crate::{progress, source};

/// Writes the checkpoint; the directory appears when it is complete.
///
/// # Errors
/// A format that bitsandbytes does not have, a model that cannot be read, an output that is taken or
/// cannot be written.
pub fn run(args: &QuantizeArgs) -> Result<()> {
    let output = args
        .output
        .as_ref()
        .context("no output is given; name a directory with --output")?;
    if let Some(name @ (QuantName::None | QuantName::Int4)) = args.quant.quant {
        let name = if name == QuantName::None {
            "none"
        } else {
            "int4"
        };
        bail!("--quant {name}: bitsandbytes has no such 4-bit format; use nf4 or fp4");
    }
    let config = quant_config(&args.quant)?;
    let model = args
        .model
        .as_deref()
        .context("no model is given; name one with --model")?;
    let checkpoint = Checkpoint::open(source::resolve(model)?)?;
    let bar = progress::counter("tensors");
    write_bitsandbytes(&checkpoint, output, config, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    println!("{} holds {model} in {}", output.display(), config.codebook);
    Ok(())
}
