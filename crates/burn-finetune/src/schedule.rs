//! The learning rate of a step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;

/// The course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Stays at its height
    ///
    /// transformers' `get_constant_schedule_with_warmup`.
    #[default]
    Constant,
    /// Falls in a line until the end
    ///
    /// transformers' `get_linear_schedule_with_warmup`, with a minimum `get_polynomial_decay_schedule_with_warmup` of power 1.
    Linear,
    /// Falls along half a cosine until the end
    ///
    /// transformers' `get_cosine_schedule_with_warmup`, with a minimum `get_cosine_with_min_lr_schedule_with_warmup`.
    Cosine,
    /// Falls along half a cosine several times, each from the full height
    ///
    /// transformers' `get_cosine_with_hard_restarts_schedule_with_warmup`.
    CosineRestarts,
    /// Stays at its height, then falls along half a cosine in the last steps (warm-up, stable, decay)
    ///
    /// transformers' `get_wsd_schedule`, with the warm-up of the others: it begins at 0 whatever the minimum is.
    Wsd,
}

impl ScheduleKind {
    /// Returns whether the learning rate of a step depends on how many steps there are to be.
    pub fn depends_on_length(self) -> bool {
        match self {
            Self::Constant => false,
            Self::Linear | Self::Cosine | Self::CosineRestarts | Self::Wsd => true,
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::CosineRestarts => "cosine-restarts",
            Self::Wsd => "wsd",
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
    /// What it falls to.
    pub min_lr: f64,
    /// Steps of the warm-up, 0 for none.
    pub warmup_steps: usize,
    /// Times that a schedule with restarts falls.
    pub cycles: usize,
    /// Steps at the end in which a schedule with a stable part falls.
    pub decay_steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
}

impl Schedule {
    /// Returns the learning rate of `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.lr * step as f64 / self.warmup_steps.max(1) as f64;
        }
        self.min_lr + (self.lr - self.min_lr) * self.height(step)
    }

    /// Returns where between the least and the highest rate `step` is, in [0, 1].
    fn height(&self, step: usize) -> f64 {
        let half_cosine = |progress: f64| (0.5 * (1.0 + (PI * progress).cos())).max(0.0);
        let falling = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let left = self.total_steps.saturating_sub(step);
        let progress = (step - self.warmup_steps) as f64 / falling;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => left as f64 / falling,
            ScheduleKind::Cosine => half_cosine(progress),
            ScheduleKind::CosineRestarts if left == 0 => 0.0,
            ScheduleKind::CosineRestarts => half_cosine((self.cycles as f64 * progress) % 1.0),
            ScheduleKind::Wsd if left >= self.decay_steps => 1.0,
            ScheduleKind::Wsd => {
                half_cosine((self.decay_steps - left) as f64 / self.decay_steps as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule {
            kind,
            lr: 1.0,
            min_lr: 0.0,
            warmup_steps: 3,
            cycles: 1,
            decay_steps: 0,
            total_steps: 12,
        }
    }

    /// `get_last_lr` of transformers 5.23 at every step of runs of 12 with lr 1, and one step beyond the end.
    #[test]
    fn schedules_are_those_of_transformers() {
        let third = 1.0 / 3.0;
        let rising = [0.0, third, 2.0 * third];
        let (cosine, linear) = (
            schedule(ScheduleKind::Cosine),
            schedule(ScheduleKind::Linear),
        );
        let restarts = Schedule {
            cycles: 3,
            ..schedule(ScheduleKind::CosineRestarts)
        };
        let wsd = Schedule {
            decay_steps: 5,
            ..schedule(ScheduleKind::Wsd)
        };
        let above = |schedule: Schedule| Schedule {
            min_lr: 0.1,
            ..schedule
        };
        let expected: [(Schedule, [f64; 10]); 7] = [
            (schedule(ScheduleKind::Constant), [1.0; 10]),
            (
                linear,
                [9., 8., 7., 6., 5., 4., 3., 2., 1., 0.].map(|ninth| ninth / 9.0),
            ),
            (
                above(linear),
                [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
            ),
            (
                cosine,
                [
                    1.0,
                    0.969_846_310_392_954_1,
                    0.883_022_221_559_489,
                    0.75,
                    0.586_824_088_833_465_2,
                    0.413_175_911_166_534_8,
                    0.25,
                    0.116_977_778_440_510_9,
                    0.030_153_689_607_045_8,
                    0.0,
                ],
            ),
            (
                above(cosine),
                [
                    1.0,
                    0.972_861_679_353_658_7,
                    0.894_719_999_403_540_1,
                    0.775,
                    0.628_141_679_950_118_7,
                    0.471_858_320_049_881_4,
                    0.325,
                    0.205_280_000_596_459_8,
                    0.127_138_320_646_341_2,
                    0.1,
                ],
            ),
            (
                restarts,
                [1.0, 0.75, 0.25, 1.0, 0.75, 0.25, 1.0, 0.75, 0.25, 0.0],
            ),
            (
                wsd,
                [
                    1.0,
                    1.0,
                    1.0,
                    1.0,
                    1.0,
                    0.904_508_497_187_473_7,
                    0.654_508_497_187_473_7,
                    0.345_491_502_812_526_3,
                    0.095_491_502_812_526_3,
                    0.0,
                ],
            ),
        ];
        for (schedule, rates) in expected {
            for (step, rate) in rising.into_iter().chain(rates).enumerate() {
                let got = schedule.at(step);
                // Whether the minimum or the factor is added first moves the last bit.
                assert!(
                    (got - rate).abs() < 1e-12,
                    "{schedule:?} at {step}: {got} is not {rate}"
                );
            }
        }
        // `get_wsd_schedule(num_warmup_steps=0, num_training_steps=12, num_decay_steps=5, min_lr_ratio=0.1)`
        let wsd = Schedule {
            warmup_steps: 0,
            ..above(wsd)
        };
        for (step, rate) in [
            (7, 1.0),
            (8, 0.914_057_647_468_726_3),
            (11, 0.185_942_352_531_273_72),
        ] {
            assert!((wsd.at(step) - rate).abs() < 1e-12, "{}", wsd.at(step));
        }
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        for kind in [
            ScheduleKind::Constant,
            ScheduleKind::Linear,
            ScheduleKind::Cosine,
            ScheduleKind::CosineRestarts,
            ScheduleKind::Wsd,
        ] {
            let schedule = Schedule {
                lr: 2e-4,
                warmup_steps: 0,
                ..schedule(kind)
            };
            assert_eq!(schedule.at(0), 2e-4);
        }
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        let schedule = Schedule {
            warmup_steps: 10,
            total_steps: 5,
            ..schedule(ScheduleKind::Cosine)
        };
        assert_eq!(schedule.at(4), 0.4);
    }
}
