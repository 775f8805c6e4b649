//! The learning rate of a step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;

/// The course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at its height
    ///
    /// transformers' `get_constant_schedule_with_warmup`.
    #[default]
    Constant,
    /// Falls to 0 in a line
    ///
    /// Reaches 0 at the end of the run, as transformers' `get_linear_schedule_with_warmup`.
    Linear,
    /// Falls to 0 along half a cosine
    ///
    /// Reaches 0 at the end of the run, as transformers' `get_cosine_schedule_with_warmup`.
    Cosine,
}

impl ScheduleKind {
    /// Returns whether the learning rate of a step depends on how many steps there are to be.
    pub fn depends_on_length(self) -> bool {
        match self {
            Self::Constant => false,
            Self::Linear | Self::Cosine => true,
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

/// A learning-rate schedule with transformers' formulas: during warm-up `lr · step / warmup`, so that the
/// first step has rate 0, then the course of its kind.
///
/// The rate is a function of the step alone, so a resumed run needs no scheduler state. Burn's schedulers
/// cannot say it: their linear one refuses to begin at 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Course after the warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub lr: f64,
    /// Steps of the warm-up, 0 for none.
    pub warmup_steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
}

impl Schedule {
    /// Returns the learning rate of `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.lr * step as f64 / self.warmup_steps.max(1) as f64;
        }
        let remaining = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / remaining;
        match self.kind {
            ScheduleKind::Constant => self.lr,
            ScheduleKind::Linear => {
                self.lr * (self.total_steps.saturating_sub(step) as f64 / remaining).max(0.0)
            }
            ScheduleKind::Cosine => self.lr * (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `transformers.get_*_schedule_with_warmup(optimizer, 3[, 10])` at lr 1.
    #[test]
    fn schedules_are_those_of_transformers() {
        let third = 1.0 / 3.0;
        let expected: [(ScheduleKind, [f64; 11]); 3] = [
            (
                ScheduleKind::Constant,
                [0.0, third, 2.0 * third, 1., 1., 1., 1., 1., 1., 1., 1.],
            ),
            (
                ScheduleKind::Linear,
                [
                    0.0,
                    third,
                    2.0 * third,
                    1.0,
                    6.0 / 7.0,
                    5.0 / 7.0,
                    4.0 / 7.0,
                    3.0 / 7.0,
                    2.0 / 7.0,
                    1.0 / 7.0,
                    0.0,
                ],
            ),
            (
                ScheduleKind::Cosine,
                [
                    0.0,
                    third,
                    2.0 * third,
                    1.0,
                    0.950_484_433_951_209_5,
                    0.811_744_900_929_366_9,
                    0.611_260_466_978_157_2,
                    0.388_739_533_021_842_9,
                    0.188_255_099_070_633_34,
                    0.049_515_566_048_790_5,
                    0.0,
                ],
            ),
        ];
        for (kind, rates) in expected {
            let schedule = Schedule {
                kind,
                lr: 1.0,
                warmup_steps: 3,
                total_steps: 10,
            };
            for (step, rate) in rates.into_iter().enumerate() {
                let got = schedule.at(step);
                assert!(
                    (got - rate).abs() < 1e-12,
                    "{kind} at {step}: {got} is not {rate}"
                );
            }
        }
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        for kind in [
            ScheduleKind::Constant,
            ScheduleKind::Linear,
            ScheduleKind::Cosine,
        ] {
            let schedule = Schedule {
                kind,
                lr: 2e-4,
                warmup_steps: 0,
                total_steps: 5,
            };
            assert_eq!(schedule.at(0), 2e-4);
        }
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        let schedule = Schedule {
            kind: ScheduleKind::Cosine,
            lr: 1.0,
            warmup_steps: 10,
            total_steps: 5,
        };
        assert_eq!(schedule.at(4), 0.4);
    }
}
