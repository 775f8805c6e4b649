//! What a run's evaluations gave.

use crate::error::FinetuneError;
use crate::train::report::{EvalResult, Evaluation};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tensor_files::AtomicFile;

/// How the text of an evaluation begins.
const EVALUATION_START: &str = "{\"step\":";

/// The evaluations of a run on the same rows, in the order of their steps; with a file, they outlive the process.
#[derive(Debug)]
pub struct Evaluations {
    file: Option<PathBuf>,
    recorded: Recorded,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// The fingerprint of the rows that were evaluated, in hexadecimal.
    rows: String,
    #[serde(deserialize_with = "of_any_version")]
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
        let mut evaluations = read(&file, &rows)?;
        evaluations.retain(|one| one.step <= step);
        Ok(Self {
            file: Some(file),
            recorded: Recorded { rows, evaluations },
        })
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub(crate) fn record(&mut self, evaluation: Evaluation) -> Result<(), FinetuneError> {
        self.recorded.evaluations.push(evaluation);
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
        Evaluation::best(&self.recorded.evaluations).copied()
    }

    /// Returns how many have come since the best one.
    pub(crate) fn since_best(&self) -> usize {
        let Some(best) = self.best() else { return 0 };
        let all = self.recorded.evaluations.iter();
        all.filter(|one| one.step > best.step).count()
    }
}

/// Reads those in `file`, which may be missing, of rows with the fingerprint `rows` in hexadecimal.
///
/// # Errors
/// [`FinetuneError::Read`], [`FinetuneError::Malformed`].
pub(super) fn read(file: &Path, rows: &str) -> Result<Vec<Evaluation>, FinetuneError> {
    let malformed = |reason: String| FinetuneError::Malformed {
        path: file.to_owned(),
        expected: "record of a run's evaluations",
        reason,
    };
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(FinetuneError::Read {
                path: file.to_owned(),
                source,
            });
        }
    };
    let text = String::from_utf8(text).map_err(|error| malformed(error.to_string()))?;
    let recorded: Recorded =
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if recorded.rows != rows {
        return Ok(Vec::new());
    }
    let mut evaluations = recorded.evaluations;
    let texts: Vec<&str> = text.split(EVALUATION_START).skip(1).collect();
    // As this program writes them.
    if texts.len() == evaluations.len() {
        for (one, text) in evaluations.iter_mut().zip(texts) {
            *one = one.exactly(text);
        }
    }
    Ok(evaluations)
}

/// Reads evaluations of which the first versions wrote down step and loss alone.
fn of_any_version<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Evaluation>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Whole(Evaluation),
        Loss { step: usize, nll: f64 },
    }
    let read = Vec::<Any>::deserialize(from)?.into_iter();
    let evaluations = read.map(|one| match one {
        Any::Whole(evaluation) => evaluation,
        Any::Loss { step, nll } => Evaluation {
            step,
            result: EvalResult::Loss { nll },
            seconds: None,
            peak_rss_bytes: None,
        },
    });
    Ok(evaluations.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::EvalReport;

    fn evaluation(step: usize, nll: f64) -> Evaluation {
        let report = EvalReport {
            nll,
            perplexity: nll.exp(),
            tokens: 3,
        };
        Evaluation {
            step,
            result: EvalResult::Texts(report),
            seconds: Some(0.5),
            peak_rss_bytes: None,
        }
    }

    #[test]
    fn the_first_of_the_least_is_the_best() {
        let mut evaluations = Evaluations::in_memory();
        assert_eq!((evaluations.best(), evaluations.since_best()), (None, 0));
        for (step, loss) in [(2, 3.0), (4, 1.0), (6, 1.0), (8, 2.0)] {
            evaluations.record(evaluation(step, loss)).unwrap();
        }
        assert_eq!(evaluations.best(), Some(evaluation(4, 1.0)));
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
            evaluations.record(evaluation(step, loss)).unwrap();
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

    /// A loss of which serde_json makes a neighbour: an evaluation that is as good comes after it, in whatever process.
    #[test]
    fn losses_are_read_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evaluations.json");
        let loss = 1.2347835302352905;
        let mut evaluations = Evaluations::open(file.clone(), 1, 0).unwrap();
        for step in [2, 4] {
            evaluations.record(evaluation(step, loss)).unwrap();
        }
        let mut again = Evaluations::open(file.clone(), 1, 4).unwrap();
        again.record(evaluation(6, loss)).unwrap();
        assert_eq!((again.best().unwrap().step, again.since_best()), (2, 2));
        assert_eq!(again.best(), Some(evaluation(2, loss)));
    }

    /// As the first versions wrote it.
    #[test]
    fn a_record_of_losses_alone_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evaluations.json");
        let text = "{\"rows\":\"0000000000000001\",\"evaluations\":[{\"step\":2,\"nll\":3.5},\
                    {\"step\":4,\"nll\":1.2347835302352905}]}";
        fs::write(&file, text).unwrap();
        let mut evaluations = Evaluations::open(file.clone(), 1, 9).unwrap();
        let best = evaluations.best().unwrap();
        assert_eq!((best.step, best.loss()), (4, 1.2347835302352905));
        evaluations.record(evaluation(6, 1.0)).unwrap();
        let again = Evaluations::open(file, 1, 9).unwrap();
        assert_eq!(again.best(), Some(evaluation(6, 1.0)));
        assert!(again.has(2) && again.has(4));
    }
}
