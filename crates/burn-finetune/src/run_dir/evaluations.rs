//! What a run's evaluations gave.

use crate::error::FinetuneError;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tensor_files::AtomicFile;

/// The evaluations of a run on the same rows, in the order of their steps; with a file, they outlive the process.
#[derive(Debug)]
pub struct Evaluations {
    file: Option<PathBuf>,
    recorded: Recorded,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// That of the rows that were evaluated, in hexadecimal.
    rows: String,
    evaluations: Vec<Evaluation>,
}

impl Recorded {
    fn none(rows: String) -> Self {
        Self {
            rows,
            evaluations: Vec::new(),
        }
    }
}

/// An evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken before it.
    pub step: usize,
    /// Mean loss: of a target token in nats, of a pair, or of a labelled answer.
    #[serde(rename = "nll")]
    pub loss: f64,
}

impl Evaluations {
    /// Returns none yet, to be kept in memory.
    pub(crate) fn in_memory() -> Self {
        Self {
            file: None,
            recorded: Recorded::none(String::new()),
        }
    }

    /// Opens those in `file` of rows with the fingerprint `rows`, as they were after `step` steps: later ones are to come
    /// again, and those of other rows count for nothing.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Malformed`].
    pub(super) fn open(file: PathBuf, rows: u64, step: usize) -> Result<Self, FinetuneError> {
        let rows = format!("{rows:016x}");
        let recorded = read(&file)?.filter(|recorded| recorded.rows == rows);
        let mut recorded = recorded.unwrap_or_else(|| Recorded::none(rows));
        recorded.evaluations.retain(|one| one.step <= step);
        Ok(Self {
            file: Some(file),
            recorded,
        })
    }

    /// Adds the evaluation after `step` steps.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub(crate) fn record(&mut self, step: usize, loss: f64) -> Result<(), FinetuneError> {
        self.recorded.evaluations.push(Evaluation { step, loss });
        let Some(file) = &self.file else {
            return Ok(());
        };
        let text = serde_json::to_vec(&self.recorded).map_err(|error| FinetuneError::Write {
            path: file.clone(),
            reason: error.to_string(),
        })?;
        let mut written = AtomicFile::create(file)?;
        written.write_all(&text)?;
        Ok(written.commit()?)
    }

    /// Returns whether there is one after `step` steps.
    pub fn has(&self, step: usize) -> bool {
        self.recorded.evaluations.iter().any(|one| one.step == step)
    }

    /// Returns the one with the least loss, the first of several.
    pub fn best(&self) -> Option<Evaluation> {
        let all = self.recorded.evaluations.iter().copied();
        all.reduce(|best, one| if one.loss < best.loss { one } else { best })
    }

    /// Returns how many have come since the best one.
    pub(crate) fn since_best(&self) -> usize {
        let Some(best) = self.best() else { return 0 };
        let all = self.recorded.evaluations.iter();
        all.filter(|one| one.step > best.step).count()
    }
}

fn read(file: &Path) -> Result<Option<Recorded>, FinetuneError> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(FinetuneError::Read {
                path: file.to_owned(),
                source,
            });
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| FinetuneError::Malformed {
            path: file.to_owned(),
            expected: "record of a run's evaluations",
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_least_is_the_best() {
        let mut evaluations = Evaluations::in_memory();
        assert_eq!((evaluations.best(), evaluations.since_best()), (None, 0));
        for (step, loss) in [(2, 3.0), (4, 1.0), (6, 1.0), (8, 2.0)] {
            evaluations.record(step, loss).unwrap();
        }
        assert_eq!(evaluations.best(), Some(Evaluation { step: 4, loss: 1.0 }));
        assert_eq!(evaluations.since_best(), 2);
        assert!(evaluations.has(6) && !evaluations.has(5));
    }

    #[test]
    fn what_comes_again_and_what_is_of_other_rows_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evaluations.json");
        let open = |rows, step| Evaluations::open(file.clone(), rows, step).unwrap();
        let mut evaluations = open(1, 0);
        for (step, loss) in [(2, 3.0), (4, 1.0)] {
            evaluations.record(step, loss).unwrap();
        }
        assert_eq!(open(1, 9).best().unwrap().step, 4);
        assert_eq!(open(1, 3).best().unwrap().step, 2);
        assert_eq!(open(2, 9).best(), None);
        fs::write(&file, "{\"rows\":").unwrap();
        let damaged = Evaluations::open(file.clone(), 1, 9).unwrap_err();
        assert!(
            damaged.to_string().contains("evaluations.json"),
            "{damaged}"
        );
    }
}
