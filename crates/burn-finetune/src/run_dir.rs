//! A run's folder, and exact resumption from it.
//!
//! ```text
//! DIR/run.json                                the settings the run was started with; locked while it runs
//! DIR/checkpoints/step-00000010/              everything after 10 steps: a peft adapter,
//!     adapter_config.json                     the moments of the optimizer, and where the run was
//!     adapter_model.safetensors
//!     optimizer.safetensors
//!     state.json
//! DIR/evaluations.json                        the evaluations so far
//! DIR/optimizer.pages                         the moments that do not stay in memory, while it runs
//! DIR/adapter_config.json, adapter_model.safetensors     the finished adapter
//! ```
//! Beside each adapter are the files of its tokenizer, where it has tokens that the model's own lacks.
//!
//! The order of the rows and the draws of dropout follow from the seed and the step; nothing else is needed to go on
//! with the same bits.
//!
//! - `settings`: what decides what a run computes, and what of it may change.
//! - `record`: what `run.json` says.
//! - `checkpoint`: everything after a step, written and read.
//! - `evaluations`: what the evaluations gave.
//! - `verify`: the files of a checkpoint held against their checksums before anything is taken from it.
//! - `leftovers`: what a killed process could not remove.

mod checkpoint;
mod evaluations;
mod leftovers;
mod record;
mod settings;
mod verify;

pub use evaluations::Evaluations;
pub use record::RunRecord;
pub use settings::{RunSettings, RunSource};

use crate::adapters::check_finite;
use crate::data::Dataset;
use crate::error::FinetuneError;
use crate::train::trainer::Trainer;
use burn_qlora::{CausalLm, LoraConfig, LoraModel, peft};
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tensor_files::{AtomicFile, LockedFile, TensorFileError};

const SETTINGS_FILE: &str = "run.json";
const EVALUATIONS_FILE: &str = "evaluations.json";
const PAGE_FILE: &str = "optimizer.pages";
const CHECKPOINTS: &str = "checkpoints";
const PREFIX: &str = "step-";

/// The folder of one run, which is this process' alone as long as the value lives.
///
/// A run that was [created](Self::create) here is removed again with the value unless something was saved in it, so
/// that a start that fails leaves nothing behind.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lora: LoraConfig,
    base_model: String,
    companions: Vec<(String, Vec<u8>)>,
    lock: LockedFile,
    made: Cell<Made>,
}

/// What of the folder this value has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Nothing,
    Run,
    RunAndFolder,
}

/// A run that is there, locked, and not held against the settings of its resumption yet.
#[derive(Debug)]
pub struct RecordedRun {
    record: RunRecord,
    lock: LockedFile,
}

impl RecordedRun {
    /// Opens the run in the folder `path` and locks it.
    ///
    /// # Errors
    /// [`FinetuneError::NothingToResume`] when it holds no run, [`FinetuneError::RunInUse`] when another process trains
    /// there, [`FinetuneError::Read`], [`FinetuneError::Malformed`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FinetuneError> {
        let path = path.into();
        let file = path.join(SETTINGS_FILE);
        let mut lock = match LockedFile::open(&file) {
            Ok(lock) => lock,
            Err(TensorFileError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Err(FinetuneError::NothingToResume {
                    path,
                    reason: "there is no run.json in it",
                });
            }
            Err(error) => return Err(in_use(error, &path)),
        };
        let record = RunRecord::of(path, &lock.read()?)?;
        Ok(Self { record, lock })
    }

    /// Returns what the run has written down of itself.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Returns whether there is a checkpoint to go on from.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn has_checkpoint(&self) -> Result<bool, FinetuneError> {
        Ok(!checkpoints(self.record.path())?.is_empty())
    }

    /// Goes on with the run, and removes what a killed process has left in it.
    ///
    /// # Errors
    /// [`FinetuneError::ConfigChanged`], [`FinetuneError::ContentChanged`] and [`FinetuneError::LengthChanged`] when a
    /// setting is not what it was, [`FinetuneError::Write`].
    pub fn resume(self, settings: &RunSettings) -> Result<RunDir, FinetuneError> {
        let path = self.record.path();
        settings.check_against(self.record.settings(), path)?;
        leftovers::remove(path)?;
        Ok(RunDir {
            path: path.to_owned(),
            lora: settings.lora.clone(),
            base_model: settings.base_model.clone(),
            companions: settings.companions.clone(),
            lock: self.lock,
            made: Cell::new(Made::Nothing),
        })
    }
}

impl RunDir {
    /// Makes the folder of a new run and writes its settings down.
    ///
    /// # Errors
    /// As [`check_vacant`](Self::check_vacant), and [`FinetuneError::Write`].
    pub fn create(path: impl Into<PathBuf>, settings: &RunSettings) -> Result<Self, FinetuneError> {
        let path = path.into();
        Self::check_vacant(&path)?;
        let made_folder = !path.is_dir();
        fs::create_dir_all(&path).map_err(|error| write_error(&path, &error))?;
        let file = path.join(SETTINGS_FILE);
        let text = format!("{:#}\n", Value::Object(settings.recorded()));
        let created = LockedFile::remove_unfinished(&file)
            .and_then(|()| LockedFile::create(&file, text.as_bytes()));
        match created {
            Ok(lock) => Ok(Self {
                path,
                lora: settings.lora.clone(),
                base_model: settings.base_model.clone(),
                companions: settings.companions.clone(),
                lock,
                made: Cell::new(if made_folder {
                    Made::RunAndFolder
                } else {
                    Made::Run
                }),
            }),
            Err(error) => {
                if made_folder {
                    // Only an empty folder goes; anything in it is somebody's.
                    let _ = fs::remove_dir(&path);
                }
                Err(match error {
                    TensorFileError::Write { source, .. }
                        if source.kind() == io::ErrorKind::AlreadyExists =>
                    {
                        FinetuneError::OutputInUse { path }
                    }
                    other => in_use(other, &path),
                })
            }
        }
    }

    /// Checks that a run can be created in the folder `path`: it is missing, empty, or holds nothing but what a process
    /// has left that was killed while it did so.
    ///
    /// # Errors
    /// [`FinetuneError::RunInUse`] when another process trains there, [`FinetuneError::OutputInUse`] when the folder
    /// holds anything else, [`FinetuneError::Write`].
    pub fn check_vacant(path: &Path) -> Result<(), FinetuneError> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(write_error(path, &error)),
        };
        let unfinished = |name: &str| name.starts_with("run.json.") && name.ends_with(".tmp");
        let occupied = entries
            .filter_map(Result::ok)
            .any(|entry| !entry.file_name().to_str().is_some_and(unfinished));
        if !occupied {
            return Ok(());
        }
        match LockedFile::open(&path.join(SETTINGS_FILE)) {
            Err(error @ TensorFileError::InUse { .. }) => Err(in_use(error, path)),
            _ => Err(FinetuneError::OutputInUse {
                path: path.to_owned(),
            }),
        }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the pages of the optimizer's state belong.
    pub fn page_file(&self) -> PathBuf {
        self.path.join(PAGE_FILE)
    }

    /// Returns whether the file system keeps other processes out.
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Returns whether the run was created by this value and nothing was saved in it, so that it goes with it.
    pub fn is_unsaved(&self) -> bool {
        self.made.get() != Made::Nothing
            && self.checkpoints().is_ok_and(|saved| saved.is_empty())
            && !self.path.join(peft::WEIGHTS_FILE).exists()
    }

    /// Lets the run stay though nothing was saved in it: something else lies in it that a resumption goes on from.
    pub fn keep(&self) {
        self.made.set(Made::Nothing);
    }

    /// Finds the complete checkpoints, oldest first: their steps and folders.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>, FinetuneError> {
        checkpoints(&self.path)
    }

    /// Writes a checkpoint of `trainer` and returns where it is. It is complete or not there; an earlier one of the
    /// same step gives way to it.
    ///
    /// # Errors
    /// [`FinetuneError::Write`] when the disk is full and [`FinetuneError::AdapterNotFinite`] when there is nothing
    /// worth saving, with earlier checkpoints as they were.
    pub fn save<M: CausalLm>(&self, trainer: &Trainer<M>) -> Result<PathBuf, FinetuneError> {
        let folder = self.checkpoint(trainer.steps_done());
        checkpoint::write(&folder, trainer, self)?;
        Ok(folder)
    }

    /// Removes all checkpoints but the last `kept` and that of the step `best`. A process that is killed on the way leaves
    /// none that is half there.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Write`].
    pub fn keep_checkpoints(&self, kept: usize, best: Option<usize>) -> Result<(), FinetuneError> {
        let mut checkpoints = self.checkpoints()?;
        checkpoints.truncate(checkpoints.len().saturating_sub(kept));
        for (step, folder) in checkpoints {
            if Some(step) != best {
                checkpoint::remove(&folder, step)?;
            }
        }
        Ok(())
    }

    /// Returns the evaluations of `rows` in the first `step` steps of the run.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Malformed`].
    pub fn evaluations(&self, rows: &Dataset, step: usize) -> Result<Evaluations, FinetuneError> {
        let file = self.path.join(EVALUATIONS_FILE);
        Evaluations::open(file, rows.fingerprint()?, step)
    }

    /// Takes `trainer` to the last complete checkpoint and returns how many steps it has done. The checkpoint is held
    /// against itself and the run first; the trainer is as it was after an error.
    ///
    /// # Errors
    /// [`FinetuneError::NothingToResume`] when there is none yet, [`FinetuneError::AlreadyFurther`] when the run is to
    /// have fewer steps, [`FinetuneError::Checkpoint`] with the reason for one that is damaged or another run's.
    pub fn restore<M: CausalLm>(&self, trainer: &mut Trainer<M>) -> Result<usize, FinetuneError> {
        restore(&self.path, &self.lora, trainer)
    }

    /// Writes the model's adapter to the run's folder itself, where peft finds it.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], [`FinetuneError::Lora`].
    pub fn save_adapter<M: LoraModel>(&self, model: &M) -> Result<(), FinetuneError> {
        check_finite(model)?;
        self.save_companions()?;
        peft::save(model, &self.lora, &self.base_model, &self.path).map_err(checkpoint::written)
    }

    /// Writes the files that belong to an adapter to the run's folder itself.
    fn save_companions(&self) -> Result<(), FinetuneError> {
        for (name, content) in &self.companions {
            let mut file = AtomicFile::create(self.path.join(name))?;
            file.write_all(content)?;
            file.commit()?;
        }
        Ok(())
    }

    /// Copies the adapter of the checkpoint after `step` steps to the run's folder itself, where peft finds it.
    ///
    /// # Errors
    /// [`FinetuneError::Read`] when there is no such checkpoint, [`FinetuneError::Write`].
    pub fn save_adapter_of(&self, step: usize) -> Result<(), FinetuneError> {
        let folder = self.checkpoint(step);
        self.save_companions()?;
        // In the order in which peft files are saved: what has a configuration has weights.
        for file in [peft::WEIGHTS_FILE, peft::CONFIG_FILE] {
            checkpoint::copy(&folder.join(file), &self.path.join(file))?;
        }
        Ok(())
    }

    fn checkpoint(&self, step: usize) -> PathBuf {
        let checkpoints = self.path.join(CHECKPOINTS);
        checkpoints.join(format!("{PREFIX}{step:08}"))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.is_unsaved() {
            return;
        }
        // The run has failed already; what cannot be removed changes nothing about that.
        let _ = fs::remove_dir(self.path.join(CHECKPOINTS));
        for file in [SETTINGS_FILE, EVALUATIONS_FILE] {
            let _ = fs::remove_file(self.path.join(file));
        }
        if self.made.get() == Made::RunAndFolder {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Takes `trainer` to the last complete checkpoint of the run in the folder `run`, whose adapters are `lora`.
fn restore<M: CausalLm>(
    run: &Path,
    lora: &LoraConfig,
    trainer: &mut Trainer<M>,
) -> Result<usize, FinetuneError> {
    let mut checkpoints = checkpoints(run)?;
    let Some((step, folder)) = checkpoints.pop() else {
        return Err(FinetuneError::NothingToResume {
            path: run.to_owned(),
            reason: "it was stopped before its first checkpoint",
        });
    };
    let steps = trainer.config().steps;
    if step > steps {
        return Err(FinetuneError::AlreadyFurther {
            path: run.to_owned(),
            done: step,
            steps,
        });
    }
    checkpoint::read(&folder, step, trainer, lora).map_err(|error| match error {
        error @ (FinetuneError::Device { .. } | FinetuneError::Paged(_)) => error,
        error => FinetuneError::Checkpoint {
            source: Box::new(error),
            folder,
            before: checkpoints.last().map(|(step, _)| *step),
        },
    })?;
    Ok(step)
}

fn write_error(path: &Path, error: &io::Error) -> FinetuneError {
    FinetuneError::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Names the run where its lock is another's.
fn in_use(error: TensorFileError, path: &Path) -> FinetuneError {
    match error {
        TensorFileError::InUse { .. } => FinetuneError::RunInUse {
            path: path.to_owned(),
        },
        other => other.into(),
    }
}

/// Finds the complete checkpoints of the run in the folder `run`, oldest first.
fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>, FinetuneError> {
    let folder = run.join(CHECKPOINTS);
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
