use std::fmt::{self, Display, Formatter};

use burn_finetune::RunRecord;
use burn_qlora_llama::ComputeDtype;

use crate::metrics::Session;
use crate::run::TrainRun;

/// How the numbers of two runs are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    /// Every bit.
    Exact,
    /// Losses alone, by how much they differ relative to the recorded one: kernels of a GPU may sum in another order from one time
    /// to the next.
    Within(f64),
}

/// The tolerance in f32: what training on wgpu is held to beside the recorded curves of the peers.
const SINGLE: f64 = 1e-3;
/// The tolerance in f16 and bf16, whose numbers have three and eight times fewer bits: two units in the last place of bf16.
const HALF: f64 = 1e-2;

impl Comparison {
    /// Returns how `run` is compared with the run that has this record, whose steps were taken by `sessions`.
    pub fn of<'a>(
        record: &RunRecord,
        sessions: impl IntoIterator<Item = &'a Session>,
        run: &TrainRun,
    ) -> Self {
        let model = &run.training.model;
        let device = model.device_name.to_string();
        let started_on = record.setting("device").and_then(|was| was.as_str());
        let is_same = started_on == Some(device.as_str());
        let is_same = is_same
            && sessions.into_iter().all(|one| {
                // Several ranks add up in another order.
                one.ranks.is_none() && one.device.as_deref().is_none_or(|other| other == device)
            });
        match (model.device_name.is_flex() && is_same, model.compute_dtype) {
            (true, _) => Self::Exact,
            (false, ComputeDtype::F32) => Self::Within(SINGLE),
            (false, _) => Self::Within(HALF),
        }
    }

    /// Returns a loss that is what was `recorded`.
    pub fn told(self, recorded: f64, found: f64) -> String {
        match self {
            Self::Exact => format!("{found:?}, as recorded"),
            Self::Within(_) => format!("{found:?}, recorded {recorded:?}"),
        }
    }

    /// Returns whether `found` is what was `recorded`.
    pub fn holds(self, what: &str, recorded: f64, found: f64) -> bool {
        match self {
            Self::Exact => recorded.to_bits() == found.to_bits(),
            Self::Within(_) if what != "loss" => true,
            Self::Within(tolerance) => (found - recorded).abs() <= tolerance * recorded.abs(),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("bit by bit"),
            Self::Within(tolerance) => write!(f, "within {tolerance:e} of the recorded one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_not_the_same_number() {
        let recorded = 1.2347835302352905;
        assert!(Comparison::Exact.holds("loss", recorded, recorded));
        assert!(!Comparison::Exact.holds("loss", recorded, recorded.next_up()));
        assert!(!Comparison::Exact.holds("gradient norm", recorded, recorded.next_down()));
    }

    #[test]
    fn a_tolerance_is_relative_and_of_losses() {
        let within = Comparison::Within(SINGLE);
        assert!(within.holds("loss", 2.0, 2.0019) && !within.holds("loss", 2.0, 2.0021));
        assert!(within.holds("gradient norm", 2.0, 9.0));
        assert!(!within.holds("loss", 2.0, f64::NAN));
        assert_eq!(within.to_string(), "within 1e-3 of the recorded one");
    }
}
