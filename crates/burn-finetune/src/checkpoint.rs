//! A run's folder, and exact resumption from it.
//!
//! ```text
//! DIR/run.json                                the settings the run was started with
//! DIR/checkpoints/step-00000010/              everything after 10 steps: a peft adapter,
//!     adapter_config.json                     the moments of the optimizer, and where the run was
//!     adapter_model.safetensors
//!     optimizer.safetensors
//!     state.json
//! DIR/adapter_config.json, adapter_model.safetensors     the finished adapter
//! ```
//! A checkpoint is a [`StagedDir`]: one that is there is complete. The order of the rows and the draws of dropout follow from the seed and the step; nothing
//! else is needed to go on with the same bits.

use crate::error::FinetuneError;
use crate::train::trainer::Trainer;
use burn_qlora::{CausalLm, LoraConfig, LoraModel, peft};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tensor_files::{FileGroup, StagedDir};

const SETTINGS_FILE: &str = "run.json";
const CHECKPOINTS: &str = "checkpoints";
const PREFIX: &str = "step-";
/// Prefix of a checkpoint that is being written.
const UNFINISHED: &str = ".unfinished-";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    lora: LoraConfig,
    base_model: String,
}

/// The progress of a run.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    step: usize,
}

impl RunDir {
    /// Makes the folder of a new run. `settings` are all the values that decide what the run computes; they
    /// are written down, and resumption compares them. `lora` and `base_model` go into the adapter files.
    ///
    /// # Errors
    /// [`FinetuneError::OutputInUse`] when the folder holds anything, [`FinetuneError::Write`].
    pub fn create(
        path: impl Into<PathBuf>,
        settings: &Map<String, Value>,
        lora: LoraConfig,
        base_model: impl Into<String>,
    ) -> Result<Self, FinetuneError> {
        let path = path.into();
        let occupied = match fs::read_dir(&path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(FinetuneError::Write {
                    path,
                    reason: error.to_string(),
                });
            }
        };
        if occupied {
            return Err(FinetuneError::OutputInUse { path });
        }
        let text = format!("{:#}\n", Value::Object(settings.clone()));
        let group = FileGroup::create(&path)?;
        let mut file = group.file(SETTINGS_FILE)?;
        file.write_all(text.as_bytes())?;
        group.commit([file])?;
        Ok(Self {
            path,
            lora,
            base_model: base_model.into(),
        })
    }

    /// Opens the folder of a run to go on with it.
    ///
    /// # Errors
    /// [`FinetuneError::NothingToResume`] when it holds no run, [`FinetuneError::ConfigChanged`] when a
    /// setting is not what it was.
    pub fn resume(
        path: impl Into<PathBuf>,
        settings: &Map<String, Value>,
        lora: LoraConfig,
        base_model: impl Into<String>,
    ) -> Result<Self, FinetuneError> {
        let path = path.into();
        let file = path.join(SETTINGS_FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FinetuneError::NothingToResume {
                    path,
                    reason: "there is no run.json in it",
                });
            }
            Err(source) => return Err(FinetuneError::Read { path: file, source }),
        };
        let recorded: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| FinetuneError::Malformed {
                path: file,
                expected: "record of a run's settings",
                reason: error.to_string(),
            })?;
        if let Some((key, recorded, current)) = first_difference(&recorded, settings) {
            return Err(FinetuneError::ConfigChanged {
                path,
                key,
                recorded,
                current,
            });
        }
        Ok(Self {
            path,
            lora,
            base_model: base_model.into(),
        })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the complete checkpoints, oldest first: their steps and folders.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>, FinetuneError> {
        let folder = self.path.join(CHECKPOINTS);
        let read_error = |source| FinetuneError::Read {
            path: folder.clone(),
            source,
        };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read_error(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(read_error)?;
            let step = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Writes a checkpoint of `trainer` and returns where it is. It is complete or not there; an earlier one of the
    /// same step gives way to it.
    ///
    /// # Errors
    /// [`FinetuneError::Write`] when the disk is full, with earlier checkpoints as they were.
    pub fn save<M: CausalLm>(&self, trainer: &Trainer<M>) -> Result<PathBuf, FinetuneError> {
        let step = trainer.steps_done();
        let finished = self
            .path
            .join(CHECKPOINTS)
            .join(format!("{PREFIX}{step:08}"));
        let staged = StagedDir::replacing(&finished, &format!("{UNFINISHED}{step:08}"))?;
        peft::save(trainer.model(), &self.lora, &self.base_model, staged.path())
            .map_err(written)?;
        trainer.save_optimizer(&staged.path().join(OPTIMIZER_FILE))?;
        let state = serde_json::to_vec(&State { step }).map_err(|error| FinetuneError::Write {
            path: staged.path().join(STATE_FILE),
            reason: error.to_string(),
        })?;
        staged.write(STATE_FILE, &state)?;
        staged.publish()?;
        Ok(finished)
    }

    /// Takes `trainer` to the last complete checkpoint and returns how many steps it has done.
    ///
    /// # Errors
    /// [`FinetuneError::NothingToResume`] when there is none yet; [`FinetuneError::Read`],
    /// [`FinetuneError::Malformed`] and [`FinetuneError::Lora`] for broken files.
    pub fn restore<M: CausalLm>(&self, trainer: &mut Trainer<M>) -> Result<usize, FinetuneError> {
        let Some((_, folder)) = self.checkpoints()?.pop() else {
            return Err(FinetuneError::NothingToResume {
                path: self.path.clone(),
                reason: "it was stopped before its first checkpoint",
            });
        };
        let file = folder.join(STATE_FILE);
        let text = fs::read(&file).map_err(|source| FinetuneError::Read {
            path: file.clone(),
            source,
        })?;
        let state: State =
            serde_json::from_slice(&text).map_err(|error| FinetuneError::Malformed {
                path: file,
                expected: "state of a run",
                reason: error.to_string(),
            })?;
        trainer.restore(&folder, &folder.join(OPTIMIZER_FILE), state.step)?;
        Ok(state.step)
    }

    /// Writes the model's adapter to the run's folder itself, where peft finds it.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], [`FinetuneError::Lora`].
    pub fn save_adapter<M: LoraModel>(&self, model: &M) -> Result<(), FinetuneError> {
        peft::save(model, &self.lora, &self.base_model, &self.path).map_err(written)
    }
}

/// Makes a full disk read the same whichever crate found it.
fn written(error: burn_qlora::LoraError) -> FinetuneError {
    match error {
        burn_qlora::LoraError::Write { path, reason } => FinetuneError::Write { path, reason },
        other => other.into(),
    }
}

/// Returns the first setting that differs: its name, its old and its new value.
fn first_difference(
    recorded: &Map<String, Value>,
    current: &Map<String, Value>,
) -> Option<(String, String, String)> {
    let shown = |value: Option<&Value>| value.map_or("unset".to_owned(), Value::to_string);
    let (key, _) = recorded
        .iter()
        .chain(current)
        .find(|(key, _)| recorded.get(*key) != current.get(*key))?;
    Some((
        key.clone(),
        shown(recorded.get(key)),
        shown(current.get(key)),
    ))
}
