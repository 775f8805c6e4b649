//! `finetune quantize`: a 4-bit checkpoint for transformers and bitsandbytes.

use anyhow::{Context, Result};
use burn_qlora_llama::{
    Checkpoint, LOFTQ_ADAPTER, LoftqOptions, NativeOptions, write_bitsandbytes, write_loftq,
    write_native,
};

use crate::console::say;
use crate::device::DeviceName;
use crate::run::{CheckpointLayout, Loftq, QuantizeRun};
use crate::{progress, source};

use super::interrupted;

/// Writes the checkpoint; the directory appears when it is complete.
///
/// # Errors
/// A model that cannot be read, an output that is taken or cannot be written.
pub fn run(run: &QuantizeRun) -> Result<()> {
    let QuantizeRun {
        model,
        output,
        config,
        layout,
    } = run;
    let checkpoint = source::open(model)?;
    match *layout {
        CheckpointLayout::Bitsandbytes(None) => progress::counted("tensors", |count| {
            write_bitsandbytes(&checkpoint, output, *config, count)
        })?,
        CheckpointLayout::Native { shard_bytes } => {
            let options = NativeOptions {
                format: *config,
                shard_bytes,
            };
            let written = progress::counted("tensors", |count| {
                write_native(&checkpoint, output, &options, count)
            });
            written.map_err(|error| interrupted(error, output))?;
        }
        CheckpointLayout::Bitsandbytes(Some(loftq)) => {
            return with_adapter(run, &checkpoint, loftq);
        }
    }
    say!("{} holds {model} in {}", output.display(), config.codebook);
    Ok(())
}

/// Writes the checkpoint and the adapter.
fn with_adapter(run: &QuantizeRun, checkpoint: &Checkpoint, loftq: Loftq) -> Result<()> {
    let QuantizeRun {
        model,
        output,
        config,
        ..
    } = run;
    let Loftq { rank, rounds } = loftq;
    let stored = checkpoint.check_full_precision();
    stored.context("--loftq-rank makes up for what 4 bits lose")?;
    let options = LoftqOptions {
        format: *config,
        rank,
        rounds,
        seed: 0,
    };
    let device = DeviceName::default().open()?;
    let report = progress::counted("tensors", |count| {
        write_loftq(checkpoint, output, options, &device, count)
    })?;
    let [before, after] = report.relative_errors();
    let adapter = output.join(LOFTQ_ADAPTER);
    say!("{} holds {model} in {}", output.display(), config.codebook);
    say!(
        "{} holds an adapter for it, of rank {rank}",
        adapter.display()
    );
    say!(
        "LoftQ: the weights are {:.2} % off in 4 bits, {:.2} % with the adapter",
        100.0 * before,
        100.0 * after
    );
    Ok(())
}
