//! What a run makes of its rows: their likelihood, or that of preferred answers against others.
//!
//! An objective of preferences is a function of the log-probabilities of sequences, a handful of numbers a step. It and its
//! derivatives are computed on the host, in f64; the model gives the losses of tokens and takes a weight for each.

/// Pairs against a reference.
mod dpo;
/// Labelled answers against a reference.
mod kto;
/// Pairs without a reference.
mod orpo;
/// What is told of a step.
mod report;
/// Sequences as a model scores them.
mod score;

pub use report::PreferenceReport;
pub(crate) use report::Tally;
pub(crate) use score::{Judgement, LogProb, Scored, Slopes, Totals};

use crate::data::ExampleKind;
use crate::error::FinetuneError;
use serde::{Deserialize, Serialize};

/// What a run makes of its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The likelihood of what is learnt.
    #[default]
    Sft,
    /// Pairs, against a reference.
    Dpo(Dpo),
    /// Pairs, without a reference.
    Orpo(Orpo),
    /// Labelled answers, against a reference.
    Kto(Kto),
}

/// Direct preference optimization (Rafailov et al., arXiv 2305.18290), TRL's `loss_type="sigmoid"`:
/// `-log σ(β · ((log π(chosen) − log ref(chosen)) − (log π(rejected) − log ref(rejected))))`, the mean over pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    /// How much it costs to leave the reference.
    pub beta: f64,
    /// The probability that a pair is the wrong way round (conservative DPO), below ½.
    pub label_smoothing: f64,
}

/// Odds ratio preference optimization (Hong et al., arXiv 2403.07691): the mean negative log-likelihood of the chosen rows,
/// prompts included, and `-β · log σ(log odds(chosen) − log odds(rejected))`, the mean over pairs, of the odds of answers by
/// the mean log-probability of their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orpo {
    /// The weight of the odds ratio, the paper's λ.
    pub beta: f64,
}

/// Kahneman-Tversky optimization (Ethayarajh et al., arXiv 2402.01306), TRL's `loss_type="kto"`: of a desirable answer
/// `1 − σ(β · (log π − log ref − KL))`, of another `1 − σ(β · (KL − (log π − log ref)))`, each times its weight, the mean over
/// answers.
///
/// The KL divergence is estimated in every step, from the answers of neighbouring rows to the prompts of the step's, and is
/// at least 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kto {
    /// How much it costs to leave the reference.
    pub beta: f64,
    /// The weight of desirable answers.
    pub desirable_weight: f64,
    /// The weight of undesirable answers.
    pub undesirable_weight: f64,
}

/// TRL's default of all three.
const BETA: f64 = 0.1;

impl Default for Dpo {
    fn default() -> Self {
        Self {
            beta: BETA,
            label_smoothing: 0.0,
        }
    }
}

impl Default for Orpo {
    fn default() -> Self {
        Self { beta: BETA }
    }
}

impl Default for Kto {
    fn default() -> Self {
        Self {
            beta: BETA,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

impl Objective {
    /// Returns its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo(_) => "dpo",
            Self::Orpo(_) => "orpo",
            Self::Kto(_) => "kto",
        }
    }

    /// Returns the examples that it learns from.
    pub fn examples(&self) -> ExampleKind {
        match self {
            Self::Sft => ExampleKind::Texts,
            Self::Dpo(_) | Self::Orpo(_) => ExampleKind::Pairs,
            Self::Kto(_) => ExampleKind::Labelled,
        }
    }

    /// Returns whether it holds the model against a reference.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Self::Dpo(_) | Self::Kto(_))
    }

    /// Returns whether it holds the model against a reference on mismatched prompts and answers too.
    pub(crate) fn estimates_kl(&self) -> bool {
        matches!(self, Self::Kto(_))
    }

    /// Returns whether the prompts of preferred answers count.
    pub(crate) fn learns_prompts(&self) -> bool {
        matches!(self, Self::Orpo(_))
    }

    /// Judges sequences, the chosen and the rejected ones of pairs in turn.
    pub(crate) fn judge(&self, sequences: &[Scored], totals: &Totals) -> Judgement {
        match self {
            Self::Sft => Judgement::default(),
            Self::Dpo(dpo) => dpo.judge(sequences),
            Self::Orpo(orpo) => orpo.judge(sequences, totals),
            Self::Kto(kto) => kto.judge(sequences, totals),
        }
    }

    /// Checks every number for itself.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] naming the first one that cannot work.
    pub fn validate(&self) -> Result<(), FinetuneError> {
        let (beta, others): (_, &[_]) = match self {
            Self::Sft => return Ok(()),
            Self::Dpo(Dpo {
                beta,
                label_smoothing,
            }) => {
                check(
                    (0.0..0.5).contains(label_smoothing),
                    "label smoothing",
                    *label_smoothing,
                    "in [0, 0.5)",
                )?;
                (beta, &[])
            }
            Self::Orpo(Orpo { beta }) => (beta, &[]),
            Self::Kto(Kto {
                beta,
                desirable_weight,
                undesirable_weight,
            }) => (
                beta,
                &[
                    ("desirable weight", *desirable_weight),
                    ("undesirable weight", *undesirable_weight),
                ],
            ),
        };
        check(
            beta.is_finite() && *beta > 0.0,
            "beta",
            *beta,
            "a finite number above 0",
        )?;
        for (field, value) in others {
            check(
                value.is_finite() && *value >= 0.0,
                field,
                *value,
                "a finite number, 0 or above",
            )?;
        }
        Ok(())
    }
}

fn check(
    ok: bool,
    field: &'static str,
    value: f64,
    expected: &'static str,
) -> Result<(), FinetuneError> {
    if ok {
        Ok(())
    } else {
        Err(FinetuneError::InvalidConfig {
            field,
            value: value.to_string(),
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVES: [Objective; 3] = [
        Objective::Dpo(Dpo {
            beta: 0.3,
            label_smoothing: 0.1,
        }),
        Objective::Orpo(Orpo { beta: 0.4 }),
        Objective::Kto(Kto {
            beta: 0.2,
            desirable_weight: 1.0,
            undesirable_weight: 1.5,
        }),
    ];

    fn sequences() -> Vec<Scored> {
        let scored = |preferred, answer: (f64, usize), prompt: (f64, usize), reference| Scored {
            preferred,
            answer: LogProb {
                sum: answer.0,
                tokens: answer.1,
            },
            prompt: LogProb {
                sum: prompt.0,
                tokens: prompt.1,
            },
            reference,
        };
        vec![
            scored(true, (-3.0, 2), (-9.0, 4), -4.0),
            scored(false, (-0.5, 3), (0.0, 0), -2.0),
            scored(true, (-20.0, 6), (-1.0, 2), -18.5),
            scored(false, (-11.0, 5), (0.0, 0), -11.5),
        ]
    }

    fn totals() -> Totals {
        Totals {
            examples: 2,
            nll_tokens: 14,
            kl: 0.7,
        }
    }

    #[test]
    fn slopes_are_the_derivatives_of_the_loss() {
        const STEP: f64 = 1e-5;
        for objective in OBJECTIVES {
            let judged = objective.judge(&sequences(), &totals());
            for at in 0..sequences().len() {
                let moved = |by: f64, part: fn(&mut Scored) -> &mut LogProb| {
                    let mut sequences = sequences();
                    part(&mut sequences[at]).sum += by;
                    objective.judge(&sequences, &totals()).loss
                };
                let slope = |part| (moved(STEP, part) - moved(-STEP, part)) / (2.0 * STEP);
                let found = judged.slopes[at];
                let of_answer = slope(|scored| &mut scored.answer);
                assert!(
                    (found.answer - of_answer).abs() < 1e-8,
                    "{objective:?} {at}"
                );
                if sequences()[at].prompt.tokens > 0 {
                    let of_prompt = slope(|scored| &mut scored.prompt);
                    assert!(
                        (found.prompt - of_prompt).abs() < 1e-8,
                        "{objective:?} {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn numbers_far_away_stay_numbers() {
        for objective in OBJECTIVES {
            for far in [-1e5, -1e-9, 0.0] {
                let mut sequences = sequences();
                sequences[0].answer.sum = far;
                sequences[3].answer.sum = -1e5;
                let judged = objective.judge(&sequences, &totals());
                let slopes = judged.slopes.iter().map(|slopes| slopes.answer);
                let mut numbers = slopes.chain([judged.loss]);
                assert!(numbers.all(f64::is_finite), "{objective:?} {far}");
            }
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        assert_eq!(serde_json::to_string(&Objective::Sft).unwrap(), "\"sft\"");
        for objective in OBJECTIVES {
            objective.validate().unwrap();
            let text = serde_json::to_string(&objective).unwrap();
            assert_eq!(serde_json::from_str::<Objective>(&text).unwrap(), objective);
        }
        let beta = Objective::Orpo(Orpo { beta: 0.0 });
        let smoothing = Objective::Dpo(Dpo {
            label_smoothing: 0.5,
            ..Dpo::default()
        });
        let weight = Objective::Kto(Kto {
            undesirable_weight: f64::NAN,
            ..Kto::default()
        });
        for (objective, field) in [
            (beta, "beta"),
            (smoothing, "label"),
            (weight, "undesirable"),
        ] {
            let error = objective.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
