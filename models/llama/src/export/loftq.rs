//! A 4-bit checkpoint with an adapter that makes up for what it lost, each fitted to the other.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::tensor::Device;
use burn_qlora::{
    LoftqReport, LoraConfig, LoraError, LoraModel, QuantConfig, attach_adapters, loftq_rounds, peft,
};

use super::bitsandbytes::write_with;
use crate::checkpoint::Checkpoint;
use crate::error::DecoderError;
use crate::load::LoadOptions;
use crate::model::Decoder;

/// The folder of the adapter in that of the checkpoint, as LoftQ's own program calls it.
pub const LOFTQ_ADAPTER: &str = "loftq_init";

/// Options of [`write_loftq`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoftqOptions {
    /// The 4-bit format.
    pub format: QuantConfig,
    /// The rank of the adapter, which is on every linear layer but the head. Its alpha is the rank, so that its scale is 1, as peft
    /// takes it.
    pub rank: usize,
    /// How often quantization and adapter are fitted to each other: peft's `loftq_iter`.
    pub rounds: NonZeroUsize,
    /// What the search for the directions of large layers starts from.
    pub seed: u64,
}

/// Writes `checkpoint` as [`write_bitsandbytes`](crate::write_bitsandbytes) does, with an adapter of peft in its folder
/// [`LOFTQ_ADAPTER`] that makes up for what 4 bits took (LoftQ, arXiv 2310.08659, Algorithm 1; peft's `loftq_init`). After more than one
/// round its weights are not those of the checkpoint quantized, but of what the adapter leaves of them: both go together.
///
/// The model is held in 4 bits, embedding and head in f32, with one dense weight beside it. `on_tensor` is called after each that is
/// written with how many of how many are done.
///
/// # Errors
/// [`DecoderError::StoredQuantized`] for a checkpoint in fewer than 16 bits; those of `write_bitsandbytes` and
/// [`loftq_rounds`](burn_qlora::loftq_rounds).
pub fn write_loftq(
    checkpoint: &Checkpoint,
    output: impl AsRef<Path>,
    options: LoftqOptions,
    device: &Device,
    on_tensor: impl FnMut(usize, usize),
) -> Result<LoftqReport, DecoderError> {
    checkpoint.check_full_precision()?;
    let output = output.as_ref();
    let mut model = Decoder::load(checkpoint, &LoadOptions::quantized(options.format), device)?;
    let lora = LoraConfig::new(options.rank, options.rank as f64);
    attach_adapters(&mut model, &lora, options.seed)?;
    let report = loftq_rounds(&mut model, options.rounds, options.seed, |path, shape| {
        checkpoint.read_f32(&format!("{path}.weight"), &shape)
    })?;
    let weights: BTreeMap<_, _> = model.lora_linears().into_iter().collect();
    let matrix_of = |name: &str, _| {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        match weights.get(path).and_then(|linear| linear.weight.packed()) {
            Some(weight) => {
                let words = weight.into_host();
                words.map_err(|error| LoraError::from(error).into())
            }
            None => Err(LoraError::NotQuantized { layer: path.into() }.into()),
        }
    };
    let base = output.to_string_lossy();
    let save = |folder: &Path| {
        Ok(peft::save(
            &model,
            &lora,
            &base,
            folder.join(LOFTQ_ADAPTER),
        )?)
    };
    write_with(
        checkpoint,
        output,
        options.format,
        matrix_of,
        save,
        on_tensor,
    )?;
    Ok(report)
}
