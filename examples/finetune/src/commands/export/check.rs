use std::path::Path;

use anyhow::{Context, Result};
use burn_finetune::{Dataset, evaluate};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, Weights};
use serde::Serialize;

use crate::commands::with_dtype;
use crate::console::say;
use crate::opened_model::{MoreTokens, OpenedModel};
use crate::run::{Check, ExportRun};

/// A check whose data is read.
pub struct Prepared<'a> {
    run: &'a ExportRun,
    opened: OpenedModel,
    data: Dataset,
    batch_size: usize,
}

/// Losses in nats a token.
#[derive(Debug, Serialize)]
pub struct Losses {
    tokens: usize,
    /// Of the adapter on the base that it was merged into.
    adapter_nll: f64,
    /// Of what was written.
    merged_nll: f64,
}

impl<'a> Prepared<'a> {
    /// Opens the model as its base is loaded, and reads the data.
    ///
    /// # Errors
    /// A model without a tokenizer; data that cannot be read or used.
    pub fn new(run: &'a ExportRun, check: &Check) -> Result<Self> {
        let opened = OpenedModel::open(
            &run.model,
            None,
            MoreTokens::OfAdapter(run.adapter.as_deref()),
        )?;
        let data = opened.dataset(&check.data, &opened.encoder(check.limits)?)?;
        Ok(Self {
            run,
            opened,
            data,
            batch_size: check.batch_size,
        })
    }

    /// Measures both models, one after the other, and prints their losses.
    ///
    /// # Errors
    /// A model that cannot be loaded, or whose loss is no number.
    pub fn measure(&self) -> Result<Losses> {
        let loss = |model: &Decoder| {
            evaluate(model, &self.data, self.batch_size)
                .map_err(|error| with_dtype(error.into(), self.run.model.compute_dtype))
        };
        let (device, adapter) = (&self.run.model.device, self.run.adapter.as_deref());
        let adapted = loss(&self.opened.load_with_adapter(adapter, device)?)?;
        say!(
            "loss before    {:.6} nats a token, of {} tokens",
            adapted.nll,
            adapted.tokens
        );
        let merged = self.load_written(&self.run.output);
        let merged = merged.and_then(|model| loss(&model));
        let merged = merged.with_context(|| format!("check {}", self.run.output.display()))?;
        say!("loss merged    {:.6}", merged.nll);
        Ok(Losses {
            tokens: merged.tokens,
            adapter_nll: adapted.nll,
            merged_nll: merged.nll,
        })
    }

    fn load_written(&self, path: &Path) -> Result<Decoder> {
        let checkpoint = Checkpoint::open(path)?;
        let model = &self.run.model;
        let options = LoadOptions::new(Weights::Dense).with_compute_dtype(model.compute_dtype);
        Ok(Decoder::load(&checkpoint, &options, &model.device)?)
    }
}
