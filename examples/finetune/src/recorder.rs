//! Everything that the course of a run is written to.

use std::path::Path;

use anyhow::Result;
use burn_finetune::{Evaluation, RunDir, StepReport};

use crate::log::{Log, Resumed};
use crate::metrics::{self, Metrics, Session, SessionLine};
use crate::run::Output;
use crate::samples::SampleReport;
use crate::tensorboard::{self, EventFile};

/// The record of a run: its folder's own, the log that the user asked for, and TensorBoard's.
#[derive(Debug)]
pub struct Recorder {
    metrics: Log,
    log: Option<Log>,
    events: Option<EventFile>,
    /// Whether the run goes on from a step whose samples are recorded.
    is_sampled: Option<usize>,
}

impl Recorder {
    /// Opens the record of a process that has `done` steps behind it. `evaluated` is whether the evaluation after them is.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(
        output: &Output,
        run_dir: &RunDir,
        session: Session,
        done: usize,
        evaluated: bool,
    ) -> Result<Self> {
        let file = run_dir.path().join(metrics::FILE);
        let of_samples = |sampled| Resumed {
            step: done,
            evaluated,
            sampled,
        };
        let resumed = output.resume.then(|| of_samples(true));
        let mut own = Log::open(&file, "the run's record", resumed)?;
        let recorded = Metrics::read(run_dir.path())?.unwrap_or_default();
        let sampled = recorded.has_samples(done);
        let resumed = output.resume.then(|| of_samples(sampled));
        own.append(&SessionLine {
            step: done,
            session,
        })?;
        Ok(Self {
            metrics: own,
            log: output
                .log_json
                .as_ref()
                .map(|path| Log::open(path, "--log-json", resumed))
                .transpose()?,
            events: output
                .tensorboard
                .as_ref()
                .map(|dir| EventFile::create(dir, resumed))
                .transpose()?,
            is_sampled: sampled.then_some(done),
        })
    }

    /// Records a step.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        self.metrics.append(report)?;
        self.in_log(report)?;
        match &mut self.events {
            Some(events) => events.step(report),
            None => Ok(()),
        }
    }

    /// Records an evaluation for TensorBoard; the run's folder keeps it itself.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        match &mut self.events {
            Some(events) => events.evaluation(evaluation),
            None => Ok(()),
        }
    }

    /// Returns whether the samples after `step` steps are recorded already.
    pub fn has_samples(&self, step: usize) -> bool {
        self.is_sampled == Some(step)
    }

    /// Records samples.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn samples(&mut self, report: &SampleReport) -> Result<()> {
        // A process that ends in between writes them again, and what is in the others by then is cut off.
        self.in_log(report)?;
        if let Some(events) = &mut self.events {
            events.samples(report)?;
        }
        self.metrics.append(report)
    }

    fn in_log(&mut self, line: &impl serde::Serialize) -> Result<()> {
        match &mut self.log {
            Some(log) => log.append(line),
            None => Ok(()),
        }
    }

    /// Removes what is in a run's folder of the record, for a run that goes because nothing was saved in it.
    pub fn remove(run: &Path) {
        // What cannot be removed changes nothing about a run that has failed already.
        let _ = std::fs::remove_file(run.join(metrics::FILE));
        tensorboard::remove(&run.join(tensorboard::FOLDER));
    }
}
