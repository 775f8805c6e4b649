//! What a run's folder keeps of its course: `metrics.jsonl`, which outlives the process and knows no step twice.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use burn_finetune::{Evaluation, RunRecord, StepReport, exact_number};
use serde::{Deserialize, Serialize};

use crate::samples::SampleReport;

/// The file's name.
pub const FILE: &str = "metrics.jsonl";

/// The course of a run.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The processes that have trained it, in their order.
    pub sessions: Vec<SessionLine>,
    /// The steps, in their order.
    pub steps: Vec<StepReport>,
    /// The evaluations on the rows of the last process, in their order. They are in a file of their own, and here where an older
    /// version wrote them.
    pub evaluations: Vec<Evaluation>,
    /// The samples, in the order of their steps.
    pub samples: Vec<SampleReport>,
}

/// The beginning of a process that trains a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionLine {
    /// Steps that were done before it.
    pub step: usize,
    /// What it was to do.
    pub session: Session,
}

/// What a process that trains a run was to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// When it began, in RFC 3339.
    pub time: String,
    /// The version of the program.
    pub version: String,
    /// The device by its name on the command line; `None` where an older version did not write it down.
    #[serde(default)]
    pub device: Option<String>,
    /// On Flex, the instruction set of its kernels.
    #[serde(default)]
    pub instruction_set: Option<String>,
    /// The processes that trained together, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// The steps of the whole run.
    pub steps: usize,
    /// The number of trained parameters.
    pub parameters: usize,
    /// The rows to train on.
    pub rows: usize,
    /// The examples in them.
    pub examples: usize,
    /// The tokens of the data files that can be used.
    pub tokens: u64,
    /// Those of them that are learnt.
    pub targets: u64,
    /// The tokens of the longest row.
    pub longest: usize,
    /// The examples that were left out.
    pub left_out: usize,
    /// The rows to measure the loss on; 0 for none.
    pub held_out_rows: usize,
    /// Their hash, in hexadecimal.
    pub held_out_fingerprint: Option<String>,
    /// Whether the run ends with the adapter of the lowest held-out loss.
    pub keep_best: bool,
    /// The planned peak of memory.
    pub planned_bytes: u64,
    /// Whether that is the process's memory; else it is the device's.
    pub planned_of_process: bool,
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Session(Box<SessionLine>),
    Evaluation(Evaluation),
    Samples(SampleReport),
    Step(StepReport),
}

/// Returns a line with its numbers as they are written: serde_json reads them to within a bit.
fn exactly(read: Line, line: &str) -> Line {
    let exact = |key: &str, number: &mut f64| {
        if let Some(written) = exact_number(line, key) {
            *number = written;
        }
    };
    match read {
        Line::Session(_) => read,
        Line::Evaluation(evaluation) => Line::Evaluation(evaluation.exactly(line)),
        Line::Samples(mut report) => {
            // Behind the samples, whose texts are anybody's, but have their quotes escaped.
            exact("seconds", &mut report.seconds);
            Line::Samples(report)
        }
        Line::Step(mut report) => {
            exact("loss", &mut report.loss);
            exact("grad_norm", &mut report.grad_norm);
            exact("lr", &mut report.lr);
            exact("tokens_per_second", &mut report.tokens_per_second);
            Line::Step(report)
        }
    }
}

impl Metrics {
    /// Reads those of the run in the folder `run`; `None` where there are none, as an older version left it.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is none of a run.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let mut metrics = Self::default();
        // A process that was killed, or is at it, may have left a part of a line.
        let lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        for (place, line) in lines.enumerate() {
            let read = serde_json::from_str(line).with_context(|| {
                format!(
                    "{}:{}: this is no line of a run; remove the file, and the record begins anew",
                    path.display(),
                    place + 1
                )
            })?;
            metrics.take(exactly(read, line));
        }
        Ok(Some(metrics))
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Session(line) => {
                let last = self.sessions.last();
                let before = last.map(|last| &last.session.held_out_fingerprint);
                if before.is_some_and(|before| *before != line.session.held_out_fingerprint) {
                    self.evaluations.clear();
                }
                self.sessions.push(*line);
            }
            Line::Evaluation(line) => self.evaluations.push(line),
            Line::Samples(report) => self.samples.push(report),
            Line::Step(report) => self.steps.push(report),
        }
    }

    /// Reads those of a run with its evaluations, as far as it has come.
    ///
    /// # Errors
    /// As [`read`](Self::read); a record of evaluations that cannot be read.
    pub fn read_with_evaluations(record: &RunRecord) -> Result<Option<Self>> {
        let Some(mut metrics) = Self::read(record.path())? else {
            return Ok(None);
        };
        let session = metrics.sessions.last();
        let rows = session.and_then(|line| line.session.held_out_fingerprint.as_deref());
        let found = match rows {
            Some(rows) => record.evaluations(rows)?,
            None => Vec::new(),
        };
        let done = metrics.steps.last().map_or(0, |step| step.step);
        for evaluation in found.into_iter().filter(|one| one.step <= done) {
            // What an older version wrote down twice has its details here.
            if metrics
                .evaluations
                .iter()
                .all(|one| one.step != evaluation.step)
            {
                metrics.evaluations.push(evaluation);
            }
        }
        metrics.evaluations.sort_by_key(|one| one.step);
        Ok(Some(metrics))
    }

    /// Returns whether there are samples after `step` steps.
    pub fn has_samples(&self, step: usize) -> bool {
        self.samples.iter().any(|report| report.step == step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a real run, of which serde_json makes neighbours.
    #[test]
    fn numbers_are_read_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"step\":5,\"loss\":1.2347835302352905,\"grad_norm\":1.6665728494524246,\"lr\":0.002,\"tokens\":9,\
                    \"tokens_per_second\":111.29399782258955,\"peak_rss_bytes\":null,\"optimizer_state_bytes\":1,\
                    \"optimizer_resident_bytes\":1,\"optimizer_bytes_moved\":0}\n";
        let text = format!("{line}{{\"step\":6,\"lo");
        fs::write(dir.path().join(FILE), text).unwrap();
        let metrics = Metrics::read(dir.path()).unwrap().unwrap();
        assert_eq!(metrics.steps.len(), 1);
        assert_eq!(
            serde_json::to_string(&metrics.steps[0]).unwrap() + "\n",
            line
        );
        assert!(Metrics::read(&dir.path().join("none")).unwrap().is_none());
    }
}
