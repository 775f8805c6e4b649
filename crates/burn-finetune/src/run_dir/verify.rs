//! What is held against itself and the run before it is saved or taken.

use super::checkpoint::State;
use crate::error::FinetuneError;
use burn_qlora::{LoraConfig, LoraModel, peft};
use std::path::Path;
use tensor_files::Checksum;

/// Checks that the files of a checkpoint have the checksums that its state has for them.
pub(super) fn check_files(folder: &Path, state: &State) -> Result<(), FinetuneError> {
    for (name, saved) in &state.checksums {
        // The names are those of a file that may be damaged.
        if Path::new(name).components().count() != 1 || Path::new(name).file_name().is_none() {
            return Err(damaged(
                folder,
                format!("state.json names the file {name:?}"),
            ));
        }
        let path = folder.join(name);
        let found = format!("{:016x}", Checksum::of_file(&path)?);
        if found != *saved {
            return Err(damaged(
                &path,
                format!("its checksum is {found}, but was {saved} when it was saved"),
            ));
        }
    }
    Ok(())
}

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
        None => Ok(()),
        Some((key, found, run)) => Err(damaged(
            &folder.join(peft::CONFIG_FILE),
            format!("{key} is {found}, but the run's is {run}"),
        )),
    }
}

/// Checks that every value of the adapters is a finite number.
///
/// # Errors
/// [`FinetuneError::AdapterNotFinite`] naming the layer; [`FinetuneError::Device`].
pub(crate) fn check_finite<M: LoraModel>(model: &M) -> Result<(), FinetuneError> {
    for (layer, linear) in model.lora_linears() {
        let Some(branch) = &linear.adapter else {
            continue;
        };
        for factor in [&branch.lora.a, &branch.lora.b] {
            let values = factor.val().without_autodiff().try_into_data();
            let values = values.map_err(|error| FinetuneError::Device {
                what: format!("the adapter of {layer}"),
                reason: error.to_string(),
            })?;
            if !values.iter::<f32>().all(f32::is_finite) {
                return Err(FinetuneError::AdapterNotFinite { layer });
            }
        }
    }
    Ok(())
}

fn damaged(path: &Path, reason: String) -> FinetuneError {
    FinetuneError::Malformed {
        path: path.to_owned(),
        expected: "part of this checkpoint",
        reason,
    }
}
