//! The reports of a run while it goes.

use crate::evaluate::EvalReport;
use crate::objective::PreferenceReport;
use crate::preference::PreferenceEvaluation;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: usize,
    /// Mean loss before the update: of a target token in nats, of a pair, or of a labelled answer.
    pub loss: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update; of the factors A, where those of B have another.
    pub lr: f64,
    /// Tokens of the step, padding left out.
    pub tokens: usize,
    /// Tokens a second, of this step.
    pub tokens_per_second: f64,
    /// Peak resident memory of the process so far, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// The most that the device's allocator had reserved after a step so far, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// Bytes of the optimizer's state.
    pub optimizer_state_bytes: u64,
    /// Bytes of it that stay where the update runs.
    pub optimizer_resident_bytes: u64,
    /// Bytes that the step moved between there and the pages' home, in and out.
    pub optimizer_bytes_moved: u64,
    /// What is told of preferences, where the objective is one of them; else nothing.
    #[serde(flatten)]
    pub preferences: PreferenceReport,
}

/// What an evaluation on held-out rows gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Evaluated {
    /// Of texts: loss and perplexity.
    Texts(EvalReport),
    /// Of preferences: the objective, and what is told of them.
    Preferences(PreferenceEvaluation),
}

impl Evaluated {
    /// Returns the mean loss: of a target token in nats, of a pair, or of a labelled answer.
    pub fn loss(&self) -> f64 {
        match self {
            Self::Texts(report) => report.nll,
            Self::Preferences(report) => report.loss,
        }
    }
}

/// An event of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was taken.
    Step(&'a StepReport),
    /// The held-out rows were evaluated after `step` steps.
    Evaluated {
        /// Steps taken so far.
        step: usize,
        /// What it gave.
        report: Evaluated,
        /// Seconds that it took.
        seconds: f64,
    },
    /// The run was asked to stop, so the evaluation that is due after `step` steps is left out; a run that goes on from there
    /// makes it first.
    EvaluationLeftOut {
        /// Steps taken so far.
        step: usize,
    },
    /// A checkpoint is complete.
    Saved {
        /// Steps taken so far.
        step: usize,
        /// The checkpoint's folder.
        path: &'a Path,
    },
}
