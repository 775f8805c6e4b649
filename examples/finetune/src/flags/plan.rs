use clap::Args;
use clap::builder::PossibleValuesParser;

use super::train::TrainFlags;
use crate::known_models;

pub(super) const PLAN_HELP: &str = "\
Takes the flags and config files of `train`. With --data the rows are as long as they are there, without
it as long as --seq-len allows. No weight is read, and with --like no file at all.";

/// `finetune plan`.
#[derive(Args, Debug)]
pub struct PlanFlags {
    /// Plan for a well-known model instead of one that is here
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Model",
        value_parser = PossibleValuesParser::new(known_models::names()),
        conflicts_with_all = ["model", "data"]
    )]
    pub like: Option<String>,

    /// The run.
    #[command(flatten)]
    pub train: TrainFlags,
}
