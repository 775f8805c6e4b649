//! What adapters are held against before they are saved or taken.

use crate::error::FinetuneError;
use burn::module::Param;
use burn::tensor::Tensor;
use burn_qlora::{LoraConfig, LoraModel, peft};
use std::path::Path;

/// Checks that the adapters of a checkpoint were made as those of the run: another scale would train on in silence.
pub(crate) fn check_adapter(
    folder: &Path,
    found: &LoraConfig,
    run: &LoraConfig,
) -> Result<(), FinetuneError> {
    let numbers = [
        ("r", found.rank as f64, run.rank as f64),
        ("lora_alpha", found.alpha, run.alpha),
        ("lora_dropout", found.dropout, run.dropout),
        (
            "use_rslora",
            f64::from(u8::from(found.rslora)),
            f64::from(u8::from(run.rslora)),
        ),
    ];
    match numbers.iter().find(|(_, found, run)| found != run) {
        None if found.trainable_token_indices != run.trainable_token_indices => {
            Err(FinetuneError::damaged(
                &folder.join(peft::CONFIG_FILE),
                "trainable_token_indices are not the run's".to_owned(),
            ))
        }
        None => Ok(()),
        Some((key, found, run)) => Err(FinetuneError::damaged(
            &folder.join(peft::CONFIG_FILE),
            format!("{key} is {found}, but the run's is {run}"),
        )),
    }
}

/// Checks that every value of the adapters and of the rows of tokens is a finite number.
///
/// # Errors
/// [`FinetuneError::AdapterNotFinite`] naming the layer; [`FinetuneError::Device`].
pub(crate) fn check_finite<M: LoraModel>(model: &M) -> Result<(), FinetuneError> {
    for (layer, branch) in model.lora_adapters() {
        for factor in [&branch.lora.a, &branch.lora.b] {
            check_values(&layer, factor)?;
        }
    }
    for (layer, rows) in model.token_rows() {
        check_values(&layer, &rows.rows)?;
    }
    Ok(())
}

fn check_values(layer: &str, param: &Param<Tensor<2>>) -> Result<(), FinetuneError> {
    let values = param.val().without_autodiff().try_into_data();
    let values = values.map_err(|error| FinetuneError::Device {
        what: format!("the adapter of {layer}"),
        reason: error.to_string(),
    })?;
    if !values.iter::<f32>().all(f32::is_finite) {
        return Err(FinetuneError::AdapterNotFinite {
            layer: layer.to_owned(),
        });
    }
    Ok(())
}
