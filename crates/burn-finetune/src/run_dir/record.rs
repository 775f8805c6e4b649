//! What `run.json` says of a run.

use super::evaluations;
use super::settings::{ORIGIN, STARTED};
use super::{EVALUATIONS_FILE, RunSettings, SETTINGS_FILE, checkpoints, restore};
use crate::error::FinetuneError;
use crate::moment::Moment;
use crate::train::report::Evaluation;
use crate::train::trainer::Trainer;
use burn_qlora::{CausalLm, LoraConfig};
use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a run has written down of itself when it was started. Reading it neither locks nor changes the run's folder.
#[derive(Debug, Clone)]
pub struct RunRecord {
    path: PathBuf,
    settings: Map<String, Value>,
}

impl RunRecord {
    /// Reads that of the run in the folder `path`.
    ///
    /// # Errors
    /// [`FinetuneError::NoRun`], [`FinetuneError::Read`], [`FinetuneError::Malformed`].
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, FinetuneError> {
        let path = path.into();
        let file = path.join(SETTINGS_FILE);
        match fs::read(&file) {
            Ok(text) => Self::of(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(FinetuneError::NoRun { path })
            }
            Err(source) => Err(FinetuneError::Read { path: file, source }),
        }
    }

    /// Takes the `text` of the run in the folder `path`.
    ///
    /// # Errors
    /// [`FinetuneError::Malformed`].
    pub(super) fn of(path: PathBuf, text: &[u8]) -> Result<Self, FinetuneError> {
        let settings =
            serde_json::from_slice(text).map_err(|error| malformed(&path, error.to_string()))?;
        Ok(Self { path, settings })
    }

    /// Returns the run's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns all that is recorded, by the names of the settings.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Returns a setting of the run by its name, if it was recorded.
    pub fn setting(&self, name: &str) -> Option<&Value> {
        self.settings.get(name)
    }

    /// Returns when the run was started, if that was recorded.
    ///
    /// # Errors
    /// [`FinetuneError::Malformed`] when it is no date.
    pub fn started(&self) -> Result<Option<Moment>, FinetuneError> {
        let Some(started) = self.settings.get(STARTED) else {
            return Ok(None);
        };
        let text = started.as_str().unwrap_or_default();
        let read = text.parse().map(Some);
        read.map_err(|reason| malformed(&self.path, format!("{STARTED} is {started}: {reason}")))
    }

    /// Returns where the run came from, if that was recorded.
    pub fn origin(&self) -> Option<&Value> {
        self.settings.get(ORIGIN)
    }

    /// Takes `trainer` to the last complete checkpoint, as [`RunDir::restore`](super::RunDir::restore) does, and returns how many
    /// steps it has done, 0 where there is no checkpoint. It is for the ranks of a run beside the one that has locked it; `lora` is the
    /// configuration of the run's adapters.
    ///
    /// # Errors
    /// As for that.
    pub fn restore<M: CausalLm>(
        &self,
        trainer: &mut Trainer<M>,
        lora: &LoraConfig,
    ) -> Result<usize, FinetuneError> {
        if checkpoints(&self.path)?.is_empty() {
            return Ok(0);
        }
        restore(&self.path, lora, trainer)
    }

    /// Returns the evaluations of the held-out rows with the fingerprint `rows`, in hexadecimal, in the order of their steps. Those
    /// that the run has gone back behind are among them.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Malformed`].
    pub fn evaluations(&self, rows: &str) -> Result<Vec<Evaluation>, FinetuneError> {
        evaluations::read(&self.path.join(EVALUATIONS_FILE), rows)
    }

    /// Returns what decides what a run computes and is not as it was recorded, a sentence each.
    pub fn differences(&self, settings: &RunSettings) -> Vec<String> {
        settings.differences(&self.settings)
    }

    /// Returns what was recorded of the machine and is otherwise now, a sentence each: results may differ in their
    /// last bits.
    pub fn changes(&self, settings: &RunSettings) -> Vec<String> {
        settings.changes(&self.settings)
    }
}

fn malformed(path: &Path, reason: String) -> FinetuneError {
    FinetuneError::Malformed {
        path: path.join(SETTINGS_FILE),
        expected: "record of a run's settings",
        reason,
    }
}
