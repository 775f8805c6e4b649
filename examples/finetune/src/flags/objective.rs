use clap::{Args, ValueEnum};

use super::values::{not_negative, number, positive_number};

/// What is learnt, and its numbers.
#[derive(Args, Debug)]
#[command(next_help_heading = "Objective")]
pub struct ObjectiveFlags {
    /// What is learnt of the rows
    #[arg(long, value_enum, default_value_t = ObjectiveName::Sft)]
    pub objective: ObjectiveName,
    /// Of dpo and kto: how much it costs to leave the model as it was; of orpo: the weight of the odds ratio, lambda
    /// [default: 0.1]
    #[arg(long, value_name = "BETA", value_parser = positive_number)]
    pub beta: Option<f64>,
    /// Of dpo: the probability that a pair is the wrong way round [default: 0]
    #[arg(long, value_name = "P", value_parser = below_half)]
    pub label_smoothing: Option<f64>,
    /// Of kto: the weight of desirable answers [default: 1]
    #[arg(long, value_name = "W", value_parser = not_negative)]
    pub desirable_weight: Option<f64>,
    /// Of kto: the weight of undesirable answers [default: 1]
    #[arg(long, value_name = "W", value_parser = not_negative)]
    pub undesirable_weight: Option<f64>,
}

/// What is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ObjectiveName {
    /// Texts and answers, as they are
    Sft,
    /// `chosen` before `rejected`, near the model as it was (direct preference optimization)
    Dpo,
    /// `chosen` as it is, and before `rejected` (odds ratio preference optimization)
    Orpo,
    /// `completion` or not, by its `label`, near the model as it was (Kahneman-Tversky optimization)
    Kto,
}

fn below_half(text: &str) -> Result<f64, String> {
    number(
        text,
        |n| (0.0..0.5).contains(&n),
        "of at least 0 and below 0.5",
    )
}
