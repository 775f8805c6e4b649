//! The rows of a training run.
//!
//! Rows that are too much for memory lie in a nameless file, and once the run has begun in a file of its directory, so
//! that going on need not tokenise again. It is removed when the run is finished.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn_finetune::{Dataset, RowCache, RowEncoder};

use crate::console;
use crate::opened_model::{OpenedModel, tell};
use crate::references::RunReferences;
use crate::report;
use crate::run::{DataFiles, TrainRun};

/// The files of the rows to train on and to measure on, in a run's directory.
const FILES: [&str; 2] = ["rows.cache", "eval-rows.cache"];

/// The rows of a training run.
#[derive(Debug)]
pub struct TrainingData {
    /// The rows to train on.
    pub train: Dataset,
    /// The rows to measure the loss on.
    pub eval: Option<Dataset>,
    /// What the reference gives them, once it has been asked.
    pub references: RunReferences,
    /// Whether the rows of either are in the run's directory already.
    kept: [bool; 2],
}

impl TrainingData {
    /// Reads the rows, from the run's directory where it goes on and has them.
    ///
    /// # Errors
    /// A data file that cannot be read or used.
    pub fn read(run: &TrainRun, opened: &OpenedModel, encoder: &RowEncoder<'_>) -> Result<Self> {
        let (data, data_is_kept) = rows(run, opened, encoder, FILES[0], &run.data)?;
        let (train, eval, eval_is_kept) = match (&run.eval_data, run.eval_split) {
            (Some(path), _) => {
                let (eval, is_kept) = rows(run, opened, encoder, FILES[1], path)?;
                (data, Some(eval), is_kept)
            }
            (None, Some(share)) => {
                let split = data.split(share, run.training.seed())?;
                (split.train, Some(split.held_out), true)
            }
            (None, None) => (data, None, true),
        };
        let train = if run.training.packing {
            train.packed(encoder.max_len)?
        } else {
            train
        };
        Ok(Self {
            train,
            eval,
            references: RunReferences::default(),
            kept: [data_is_kept, eval_is_kept],
        })
    }

    /// Keeps rows that are too much for memory in the run's directory, which is there by now. Where that fails, going on
    /// has to tokenise again, and nothing else is lost.
    pub fn keep(&mut self, run: &TrainRun, encoder: &RowEncoder<'_>) {
        if let Err(error) = self.try_to_keep(run, encoder) {
            console::tell!(
                "warning: the tokenised rows are not kept for --resume: {}",
                report::one_line(&error)
            );
        }
    }

    fn try_to_keep(&mut self, run: &TrainRun, encoder: &RowEncoder<'_>) -> Result<()> {
        let place = |name| run.output.dir.join(name);
        if !self.kept[0] && self.train.is_in_file() {
            let cache = RowCache::new(place(FILES[0]), encoder, run.data.sources()?)?;
            self.train = cache.keep(&self.train)?;
        }
        if let Some(eval) = &mut self.eval {
            *eval = match &run.eval_data {
                Some(path) if !self.kept[1] && eval.is_in_file() => {
                    RowCache::new(place(FILES[1]), encoder, path.sources()?)?.keep(eval)?
                }
                _ => eval.clone().beside(&self.train),
            };
        }
        Ok(())
    }

    /// Removes what was kept of the rows in a run's directory.
    pub fn remove(dir: &Path) {
        for name in FILES {
            // A file that stays is in nobody's way.
            let _ = RowCache::remove(&dir.join(name));
        }
    }
}

/// Returns the rows of a data file, and whether they lie in the run's directory.
fn rows(
    run: &TrainRun,
    opened: &OpenedModel,
    encoder: &RowEncoder<'_>,
    name: &str,
    data: &DataFiles,
) -> Result<(Dataset, bool)> {
    let dir = folder(&run.output.dir);
    let kept = run.output.dir.join(name);
    if run.output.resume
        && kept.is_file()
        && let Some(data) = RowCache::new(kept, encoder, data.sources()?)?.open(&dir)
    {
        tell(&data);
        return Ok((data, true));
    }
    Ok((opened.dataset_in(&dir, data, encoder)?, false))
}

/// Returns the nearest folder to `output` that is there: what the run writes goes to the same disk.
fn folder(output: &Path) -> PathBuf {
    let folders = output.ancestors().skip_while(|folder| !folder.is_dir());
    match folders.into_iter().next() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
