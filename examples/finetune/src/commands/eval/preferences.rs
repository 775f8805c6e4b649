use anyhow::Result;
use burn_finetune::{Objective, ReferenceConfig, References, TrainConfig, evaluate_preferences};

use crate::commands::with_dtype;
use crate::console::say;
use crate::opened_model::{OpenedModel, open_adapter};
use crate::progress;
use crate::run::EvalRun;

/// Measures an objective of preferences. The reference, where there is one, is the model without the adapter.
///
/// # Errors
/// As [`run`](super::run).
pub fn measure(run: &EvalRun, objective: Objective, opened: &OpenedModel) -> Result<String> {
    let config = TrainConfig {
        objective,
        batch_size: run.batch_size,
        ..TrainConfig::default()
    };
    config.validate()?;
    let encoder = opened.encoder(run.limits)?;
    let data = opened.dataset(&run.data, &encoder)?.head(run.max_rows)?;
    let adapter = run.adapter.as_deref();
    let adapter = adapter
        .map(|adapter| open_adapter(adapter, &opened.checkpoint))
        .transpose()?;
    let mut llama = opened.load_to_ask(&run.model.device)?;
    opened.tell_of_second_quantization();
    let in_dtype =
        |error: burn_finetune::FinetuneError| with_dtype(error.into(), run.model.compute_dtype);
    let references = match ReferenceConfig::of(&config, encoder.max_len) {
        Some(config) => progress::counted("rows by the reference", |told| {
            let dir = std::env::temp_dir();
            References::compute(&llama, &data, config, &dir, &mut |done, total| {
                told(done, total);
                true
            })
        })
        .map_err(in_dtype)?,
        None => None,
    };
    if let Some(adapter) = adapter {
        adapter.attach(&mut llama)?;
    }
    let found = evaluate_preferences(
        &llama,
        &data,
        references.as_ref(),
        objective,
        run.batch_size,
    )
    .map_err(in_dtype)?;
    say!("computed in {}", run.model.compute_dtype);
    say!("objective   {}", objective.name());
    say!("examples    {}", found.examples);
    say!("loss        {:.4}", found.loss);
    for (name, value) in found.preferences.named() {
        say!("{name:<18} {value:.4}");
    }
    Ok(serde_json::to_string(&found)?)
}
