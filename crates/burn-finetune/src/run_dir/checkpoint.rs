//! Everything after a step, in a folder that is complete or not there.

use super::{RunDir, verify};
use crate::adapters::check_finite;
use crate::error::FinetuneError;
use crate::train::trainer::Trainer;
use burn_qlora::{CausalLm, LoraConfig, LoraError, peft};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tensor_files::{AtomicFile, Checksum, StagedDir};

/// Prefix of a checkpoint that is being written or removed.
pub(super) const UNFINISHED: &str = ".unfinished-";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";

/// The progress of a run, and the checksums of the other files of the checkpoint in hexadecimal, which the first
/// versions did not write.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub step: usize,
    #[serde(default)]
    pub checksums: BTreeMap<String, String>,
}

/// Writes a checkpoint of `trainer` into `folder`, as one of `run`.
pub(super) fn write<M: CausalLm>(
    folder: &Path,
    trainer: &Trainer<M>,
    run: &RunDir,
) -> Result<(), FinetuneError> {
    check_finite(trainer.model())?;
    let step = trainer.steps_done();
    let staged = StagedDir::replacing(folder, &unfinished(step))?;
    peft::save(trainer.model(), &run.lora, &run.base_model, staged.path()).map_err(written)?;
    for (name, content) in &run.companions {
        staged.write(name, content)?;
    }
    trainer.save_optimizer(&staged.path().join(OPTIMIZER_FILE))?;
    let mut state = State {
        step,
        checksums: BTreeMap::new(),
    };
    for file in [peft::CONFIG_FILE, peft::WEIGHTS_FILE, OPTIMIZER_FILE] {
        let sum = Checksum::of_file(&staged.path().join(file))?;
        state.checksums.insert(file.into(), format!("{sum:016x}"));
    }
    let text = serde_json::to_vec(&state).map_err(|error| FinetuneError::Write {
        path: staged.path().join(STATE_FILE),
        reason: error.to_string(),
    })?;
    staged.write(STATE_FILE, &text)?;
    Ok(staged.publish()?)
}

/// Removes the checkpoint in `folder`, which is that of `step`.
pub(super) fn remove(folder: &Path, step: usize) -> Result<(), FinetuneError> {
    // Under this name it is no checkpoint any more, and whoever goes on with the run removes what is left of it.
    let removed = folder.with_file_name(unfinished(step));
    let result = fs::rename(folder, &removed).and_then(|()| fs::remove_dir_all(&removed));
    result.map_err(|error| FinetuneError::Write {
        path: folder.to_owned(),
        reason: error.to_string(),
    })
}

/// Copies a file; the copy is whole or not there.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), FinetuneError> {
    let mut source = fs::File::open(from).map_err(|source| FinetuneError::Read {
        path: from.to_owned(),
        source,
    })?;
    let mut copy = AtomicFile::create(to)?;
    copy.copy_from(&mut source)?;
    Ok(copy.commit()?)
}

fn unfinished(step: usize) -> String {
    format!("{UNFINISHED}{step:08}")
}

/// Takes `trainer` to the checkpoint in `folder`, which is that of `step` by its name.
pub(super) fn read<M: CausalLm>(
    folder: &Path,
    step: usize,
    trainer: &mut Trainer<M>,
    lora: &LoraConfig,
) -> Result<(), FinetuneError> {
    let file = folder.join(STATE_FILE);
    let text = fs::read(&file).map_err(|source| FinetuneError::Read {
        path: file.clone(),
        source,
    })?;
    let malformed = |reason: String| FinetuneError::Malformed {
        path: file.clone(),
        expected: "state of a run",
        reason,
    };
    let state: State =
        serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if state.step != step {
        return Err(malformed(format!(
            "it says step {}, its folder says step {step}",
            state.step
        )));
    }
    verify::check_files(folder, &state.checksums)?;
    trainer.restore(folder, &folder.join(OPTIMIZER_FILE), step, lora)
}

/// Makes a full disk read the same whichever crate found it.
pub(super) fn written(error: LoraError) -> FinetuneError {
    match error {
        LoraError::File(error) => error.into(),
        other => other.into(),
    }
}
