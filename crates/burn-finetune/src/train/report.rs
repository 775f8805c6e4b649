//! The reports of a run while it goes.

use crate::evaluate::EvalReport;
use crate::exact::exact_number;
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
    /// Bytes of weights that the step and what was evaluated before it brought in, where weights are paged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes_moved: Option<u64>,
    /// What is told of preferences, where the objective is one of them; else nothing.
    #[serde(flatten)]
    pub preferences: PreferenceReport,
}

/// An evaluation on held-out rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken before it.
    pub step: usize,
    /// What it gave.
    #[serde(rename = "evaluation")]
    pub result: EvalResult,
    /// Seconds that it took; `None` where the first versions did not write them down.
    pub seconds: Option<f64>,
    /// Peak resident memory of the process so far, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// What an evaluation gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EvalResult {
    /// Of texts: loss and perplexity.
    Texts(EvalReport),
    /// Of preferences: the objective, and what is told of them.
    Preferences(PreferenceEvaluation),
    /// Of either, as the first versions wrote it down: the loss alone.
    Loss {
        /// The loss.
        nll: f64,
    },
}

impl Evaluation {
    /// Returns the mean loss: of a target token in nats, of a pair, or of a labelled answer.
    pub fn loss(&self) -> f64 {
        match &self.result {
            EvalResult::Texts(report) => report.nll,
            EvalResult::Preferences(report) => report.loss,
            EvalResult::Loss { nll } => *nll,
        }
    }

    /// Returns the one with the least loss, the first of several.
    pub fn best(evaluations: &[Self]) -> Option<&Self> {
        let all = evaluations.iter();
        all.reduce(|best, one| if one.loss() < best.loss() { one } else { best })
    }

    /// Returns it with its numbers as they stand in the text that it was read from.
    #[must_use]
    pub fn exactly(mut self, text: &str) -> Self {
        let exact = |key: &str, number: &mut f64| {
            if let Some(written) = exact_number(text, key) {
                *number = written;
            }
        };
        match &mut self.result {
            EvalResult::Texts(report) => {
                exact("nll", &mut report.nll);
                exact("perplexity", &mut report.perplexity);
            }
            EvalResult::Preferences(report) => exact("loss", &mut report.loss),
            EvalResult::Loss { nll } => exact("nll", nll),
        }
        if let Some(seconds) = &mut self.seconds {
            exact("seconds", seconds);
        }
        self
    }
}

/// An event of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was taken.
    Step(&'a StepReport),
    /// The held-out rows were evaluated.
    Evaluated(&'a Evaluation),
    /// The run was asked to stop, so the evaluation that is due after `step` steps is left out; a run that goes on from there
    /// makes it first.
    EvaluationLeftOut {
        /// Steps taken so far.
        step: usize,
    },
    /// A rank had other adapters than the first, though both were to compute the same bits: all have the first one's now, which
    /// are sent after every step from now on.
    AdaptersDiffer {
        /// Steps taken so far.
        step: usize,
        /// The first such rank.
        rank: usize,
    },
    /// A checkpoint is complete.
    Saved {
        /// Steps taken so far.
        step: usize,
        /// The checkpoint's folder.
        path: &'a Path,
    },
}
